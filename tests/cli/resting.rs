//! What is forgotten rests for a while, and can be brought back.

use jiff::{Timestamp, ToSpan};
use serde_json::Value;

use crate::world::{MIB, World, disk};

fn time(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    text.parse().expect("times are RFC 3339")
}

#[test]
fn what_was_forgotten_comes_back_whole() {
    let world = World::new();
    let bytes = disk(210, 2 * MIB);
    world.raw("a.raw", &bytes);
    let id = world.backup("a.raw")["snapshot"]
        .as_str()
        .expect("an id")
        .to_owned();
    world
        .run(["undelete", &id])
        .refused(1, "there is no snapshot");
    let before = Timestamp::now();
    let done = world.json(["forget", &id]);
    let week = (7 * 24).hours();
    assert!(time(&done["kept_until"]) >= before + week);

    assert_eq!(world.json(["snapshots"]).as_array().map(Vec::len), Some(0));
    let resting = world.json(["snapshots", "--forgotten"]);
    assert_eq!(resting[0]["id"], *id);
    assert!(time(&resting[0]["forgotten"]) >= before);
    assert_eq!(
        time(&resting[0]["kept_until"]),
        time(&resting[0]["forgotten"]) + week
    );
    assert!(
        world
            .ok(["snapshots", "--forgotten"])
            .contains("KEPT UNTIL")
    );
    let nobody = world.json(["snapshots", "--forgotten", "nobody"]);
    assert_eq!(nobody, serde_json::json!([]));

    // A mistake in one brings none back. The VM's name means its latest forgotten snapshot.
    world
        .run(["undelete", "web1", "nobody"])
        .refused(1, "`nobody`");
    assert_eq!(world.json(["snapshots"]).as_array().map(Vec::len), Some(0));
    assert_eq!(world.json(["undelete", "web1"])["snapshots"][0]["id"], *id);
    assert_eq!(world.json(["snapshots"])[0]["id"], *id);
    assert!(world.restored(&id) == bytes);
    // Forgotten and brought back again: the last word holds.
    world.ok(["forget", &id]);
    world.ok(["undelete", &id]);
    world.ok(["forget", &id]);
    assert_eq!(world.json(["snapshots"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn the_grace_is_set_per_repository() {
    let world = World::empty();
    let made = world.json(["init", "--grace", "36h"]);
    assert_eq!(made["grace_seconds"], 36 * 3600);
    world.raw("a.raw", &disk(211, MIB));
    world.backup("a.raw");
    let text = world.ok(["forget", "web1", "--yes"]);
    assert!(
        text.contains("`cairn undelete` brings them back until"),
        "{text}"
    );
    let resting = world.json(["snapshots", "--forgotten"]);
    let rest = time(&resting[0]["kept_until"]) - time(&resting[0]["forgotten"]);
    assert_eq!(rest.total(jiff::Unit::Hour).ok(), Some(36.0));

    for grace in ["-1d", "7", "1000y", "x"] {
        let world = World::empty();
        let ran = world.run(["init", &format!("--grace={grace}")]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(!world.repository().exists());
    }
}

#[test]
fn protection_holds_what_is_forgotten() {
    let world = World::encrypted();
    world.raw("a.raw", &disk(212, MIB));
    let id = world.backup("a.raw")["snapshot"]
        .as_str()
        .expect("an id")
        .to_owned();
    world.ok(["forget", &id]);
    // Only what is listed can be protected: whoever wants one that rests brings it back.
    world
        .run(["protect", &id])
        .refused(1, "there is no snapshot");
    world.ok(["undelete", &id]);
    world.ok(["protect", &id]);
    world.run(["forget", &id]).refused(2, "is protected");
}
