//! Whoever asks for the newest snapshot gets it, or an error: whatever the clocks said, and where
//! its manifest is damaged or gone.

use std::fs;
use std::path::PathBuf;

use crate::world::{MIB, World, damage, disk, edit};

/// A repository with two snapshots of `web1` and one of `db`, and the ids of the first two.
fn three() -> (World, [String; 2]) {
    let world = World::new();
    let mut bytes = disk(40, MIB);
    world.raw("a.raw", &bytes);
    let older = world.backup("a.raw")["snapshot"].clone();
    edit(41, &mut bytes);
    world.raw("a.raw", &bytes);
    let newer = world.backup("a.raw")["snapshot"].clone();
    world.ok(["backup", "db", "--disk", "vda=a.raw"]);
    let ids = [older, newer].map(|id| id.as_str().expect("an id").to_owned());
    (world, ids)
}

fn manifest(world: &World, id: &str) -> PathBuf {
    world.repository().join("snapshots").join(id)
}

/// Forgets what this client has seen there, as another client has not.
fn be_another_client(world: &World) {
    fs::remove_dir_all(world.path("cache")).expect("there is a cache");
}

/// Every command that is to find the newest of `web1`, by any of its names, ends with 13, whatever
/// it is told to say, and does nothing.
fn all_refuse(world: &World, older: &str) {
    let older = &older[..8];
    for name in ["web1", "web1@latest", "web1@2999-01-01"] {
        let place = format!("{name}:vda/etc");
        for args in [
            &["restore", name, "--disk", "vda", "--to", "out.raw"][..],
            &["show", name],
            &["export", name, "--socket", "s"],
            &["export", &format!("{name}:vda"), "--socket", "s"],
            &["ls", &place],
            &["find", &place, "*"],
            &["get", &place, "out.raw"],
            &["diff", name, older],
            &["verify", name],
            &["protect", name],
            &["forget", name],
            &["backup", "web1", "--disk", "vda=a.raw", "--parent", name],
        ] {
            let ran = world.run([&["-q"], args].concat());
            ran.refused(13, "which is damaged or gone");
            assert!(
                ran.err.contains(older),
                "{args:?}: the other is named: {ran:?}"
            );
        }
    }
    assert!(!world.path("out.raw").exists());
    world.ok(["restore", older, "--disk", "vda", "--to", "out.raw"]);
    fs::remove_file(world.path("out.raw")).expect("it was restored");
    world.ok(["show", &format!("web1@{older}")]);
}

#[test]
fn a_damaged_newest_snapshot_is_no_older_one() {
    let (world, [older, newer]) = three();
    damage(&manifest(&world, &newer));
    all_refuse(&world, &older);
    // This client has seen whose it was; another has not, and it may have been any VM's.
    world.ok(["show", "db"]);
    be_another_client(&world);
    all_refuse(&world, &older);
    world.run(["show", "db"]).refused(13, "damaged or gone");
}

#[test]
fn a_newest_snapshot_that_is_gone_is_no_older_one_to_who_has_seen_it() {
    let (world, [older, newer]) = three();
    fs::remove_file(manifest(&world, &newer)).expect("it is there");
    all_refuse(&world, &older);
    let shown = world.run(["show", "db"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(
        shown.err.contains("was here before and is gone"),
        "{shown:?}"
    );
    // A newer one ends it.
    let next = world.backup("a.raw")["snapshot"].clone();
    assert_eq!(world.json(["show", "web1"])["id"], next);
    let shown = world.run(["show", "web1"]);
    assert!(shown.err.is_empty(), "{shown:?}");
}

#[test]
fn an_older_snapshot_that_is_damaged_is_in_nobodys_way_where_that_is_known() {
    let (world, [older, newer]) = three();
    damage(&manifest(&world, &older));
    assert_eq!(world.json(["show", "web1"])["id"], newer.as_str());
    world.run(["show", &older]).refused(13, &older[..8]);
    // Nobody can tell which was the newest without the memory: then neither is given out.
    be_another_client(&world);
    world.run(["show", "web1"]).refused(13, "damaged or gone");
    world.ok(["show", &newer]);
}

#[test]
fn a_damaged_snapshot_from_which_another_was_computed_is_not_the_newest() {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(42, MIB), "");
    world.tool("qemu-img", &["bitmap", "--add", "a.qcow2", "b0"]);
    let first = world.backup("a.qcow2")["snapshot"].clone();
    let first = first.as_str().expect("an id");
    let next = [
        "backup",
        "web1",
        "--disk",
        "vda=a.qcow2,bitmap=b0",
        "--parent",
    ];
    let second = world.json(next.iter().chain(&[first]))["snapshot"].clone();
    damage(&manifest(&world, first));
    be_another_client(&world);
    assert_eq!(world.json(["show", "web1"])["id"], second);
}

#[test]
fn the_newest_is_the_one_made_last_whatever_its_date_says() {
    let world = World::new();
    world.raw("a.raw", &disk(43, MIB));
    let ahead = world.dated("web1", "a.raw", "2031-01-01T00:00:00Z", None);
    let behind = world.dated("web1", "a.raw", "2026-11-20T01:30:00Z", None);
    let ran = world.run(["show", "web1", "--json", "-q"]);
    assert_eq!(ran.document()["id"], behind.as_str());
    let said = format!(
        "{}, dated 2031-01-01 00:00:00, was made before",
        &ahead[..8]
    );
    assert!(ran.err.contains(&said), "{ran:?}");
    // By a date, too; and by its id the other, not without a word.
    let dated = world.run(["show", "web1@2026-11-20", "--json"]);
    assert_eq!(dated.document()["id"], behind.as_str());
    assert!(dated.err.contains(&said), "{dated:?}");
    assert!(world.run(["show", &ahead]).err.contains(&said));
    // Once it is forgotten nothing contradicts any more.
    world.ok(["forget", &ahead]);
    assert!(world.run(["show", "web1"]).err.is_empty());
}

/// What was made last comes last, also where it was made after one that nobody can read any more.
#[test]
fn the_place_of_a_lost_snapshot_is_given_to_no_other() {
    let place = |world: &World| {
        let made = world.backup("a.raw")["snapshot"].clone();
        let path = manifest(world, made.as_str().expect("an id"));
        let text = fs::read_to_string(path).expect("it is text");
        let manifest: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        manifest["ordinal"].as_u64().expect("a place")
    };
    // This client has seen the second.
    let (world, [_, newer]) = three();
    fs::remove_file(manifest(&world, &newer)).expect("it can be removed");
    assert_eq!(place(&world), 3);
    // Another has not, and finds that something is there.
    let (world, [_, newer]) = three();
    damage(&manifest(&world, &newer));
    be_another_client(&world);
    assert!(place(&world) > 2);
}
