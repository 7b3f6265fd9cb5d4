//! `cairn forget`.

use crate::world::{MIB, World, disk};

#[test]
fn what_is_forgotten_is_gone_from_view() {
    let world = World::new();
    let bytes = disk(80, 2 * MIB);
    world.raw("a.raw", &bytes);
    let old = world.backup("a.raw")["snapshot"]
        .as_str()
        .expect("an id")
        .to_owned();
    let new = world.backup("a.raw")["snapshot"].clone();

    let plan = world.json(["forget", &old, "--dry-run"]);
    assert_eq!(plan["dry_run"], true);
    assert_eq!(plan["forgotten"][0]["id"], *old);
    assert_eq!(world.json(["snapshots"]).as_array().map(Vec::len), Some(2));

    // A mistake in one forgets none.
    world.run(["forget", &old, "nobody"]).refused(1, "`nobody`");
    assert_eq!(world.json(["snapshots"]).as_array().map(Vec::len), Some(2));

    let done = world.json(["forget", &old]);
    assert_eq!(done["dry_run"], false);
    assert_eq!(done["forgotten"].as_array().map(Vec::len), Some(1));
    let left = world.json(["snapshots"]);
    assert_eq!(left.as_array().map(Vec::len), Some(1));
    assert_eq!(left[0]["id"], new);
    for args in [
        &["show", &old][..],
        &["restore", &old, "--to", "x"],
        &["forget", &old],
    ] {
        world.run(args).refused(1, "there is no snapshot");
    }
    assert_eq!(world.json(["stats"])["snapshots"], 1);
    world.ok(["verify"]);
    assert!(world.restored("web1") == bytes);
}
