//! What a bitmap counts from: a recipe that a person follows by hand cannot make a backup lie.

use std::fs;

use serde_json::Value;

use crate::world::{MIB, Ran, World, copy_tree, disk};

/// A disk in `a.qcow2`, with a bitmap `b0`.
fn by_hand() -> World {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(50, 8 * MIB), "");
    world.tool("qemu-img", &["bitmap", "--add", "a.qcow2", "b0"]);
    world
}

fn clear(world: &World) {
    world.tool("qemu-img", &["bitmap", "--clear", "a.qcow2", "b0"]);
}

/// Backs up by the bitmap `b0`, and says how the disk was read.
fn since(world: &World, parent: &str) -> (Ran, Value) {
    let disk = "vda=a.qcow2,bitmap=b0";
    let ran = world.run([
        "backup", "web1", "--disk", disk, "--parent", parent, "--json",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let made = ran.document();
    (ran, made)
}

/// Backs up by bitmaps that Cairn keeps.
fn nightly(world: &World) -> (Ran, Value) {
    let ran = world.run([
        "backup",
        "web1",
        "--disk",
        "vda=a.qcow2,bitmap=auto",
        "--json",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let made = ran.document();
    (ran, made)
}

fn id(made: &Value) -> String {
    made["snapshot"].as_str().expect("an id").to_owned()
}

fn mode(made: &Value) -> &str {
    made["disks"][0]["mode"].as_str().expect("a mode")
}

/// Fails unless a snapshot has what is in the image.
#[track_caller]
fn assert_right(world: &World, snapshot: &str) {
    world.ok(["restore", snapshot, "--disk", "vda", "--to", "back.raw"]);
    world.assert_equal(("qcow2", "a.qcow2"), ("raw", "back.raw"));
    fs::remove_file(world.path("back.raw")).expect("it was restored");
}

/// The names of the image's bitmaps that Cairn keeps.
fn kept(world: &World) -> Vec<String> {
    let info = world.tool("qemu-img", &["info", "--output=json", "a.qcow2"]);
    let info: Value = serde_json::from_str(&info).expect("it is JSON");
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array();
    let names = bitmaps.into_iter().flatten().map(|bitmap| &bitmap["name"]);
    let names = names.map(|name| name.as_str().expect("a name").to_owned());
    names.filter(|name| name.starts_with("cairn-")).collect()
}

#[test]
fn the_latest_parent_is_the_one_made_last_though_the_clock_was_set_back() {
    let world = by_hand();
    world.dated("web1", "a.qcow2", "2026-11-20T02:00:00Z", None);
    clear(&world);
    world.write("a.qcow2", &["write -P 1 1M 64k"]);
    let second = world.dated("web1", "a.qcow2", "2026-11-20T01:30:00Z", None);
    clear(&world);
    world.write("a.qcow2", &["write -P 2 2M 64k"]);
    let (_, made) = since(&world, "web1@latest");
    assert_eq!(made["parent"], second.as_str());
    assert_eq!(mode(&made), "incremental");
    assert_right(&world, &id(&made));
}

#[test]
fn a_bitmap_that_was_cleared_for_a_forgotten_snapshot_is_doubted() {
    for collected in [false, true] {
        let world = by_hand();
        world.backup("a.qcow2");
        clear(&world);
        world.write("a.qcow2", &["write -P 1 1M 64k"]);
        let (_, second) = since(&world, "web1@latest");
        clear(&world);
        world.write("a.qcow2", &["write -P 2 2M 64k"]);
        world.ok(["forget", &id(&second)]);
        if collected {
            world.ok(["gc", "--grace", "0"]);
        }
        let (ran, made) = since(&world, "web1@latest");
        assert_eq!(mode(&made), "scan", "{ran:?}");
        assert!(ran.err.contains("made after the parent"), "{ran:?}");
        assert_right(&world, &id(&made));
        // From then on all is well.
        clear(&world);
        world.write("a.qcow2", &["write -P 3 3M 64k"]);
        let (ran, made) = since(&world, "web1@latest");
        assert_eq!((mode(&made), &*ran.err), ("incremental", ""));
        assert_right(&world, &id(&made));
    }
}

#[test]
fn a_parent_that_has_a_child_is_doubted() {
    let world = by_hand();
    let first = id(&world.backup("a.qcow2"));
    clear(&world);
    world.write("a.qcow2", &["write -P 1 1M 64k"]);
    since(&world, &first);
    clear(&world);
    world.write("a.qcow2", &["write -P 2 2M 64k"]);
    let (ran, made) = since(&world, &first);
    assert_eq!(mode(&made), "scan", "{ran:?}");
    assert_right(&world, &id(&made));
}

#[test]
fn a_delta_that_may_count_from_a_forgotten_snapshot_is_refused() {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(51, MIB), "");
    let first = id(&world.backup("a.qcow2"));
    let second = id(&world.backup("a.qcow2"));
    world.tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "delta.qcow2", "1M"],
    );
    world.ok(["forget", &second]);
    let delta = |parent: &str| {
        let disk = "vda=delta.qcow2,delta";
        world.run(["backup", "web1", "--disk", disk, "--parent", parent])
    };
    delta("web1@latest").refused(2, "name the snapshot by its id");
    let ran = delta(&first);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_right(&world, "web1");
}

#[test]
fn another_image_in_its_place_is_not_read_by_its_bitmap() {
    let world = by_hand();
    world.backup("a.qcow2");
    clear(&world);
    // A near clone: the same blocks, but for one that its bitmap says nothing of.
    fs::copy(world.path("a.qcow2"), world.path("clone.qcow2")).expect("there is space");
    world.write("clone.qcow2", &["write -P 7 4M 64k"]);
    world.tool("qemu-img", &["bitmap", "--clear", "clone.qcow2", "b0"]);
    world.tool("mv", &["clone.qcow2", "a.qcow2"]);
    let (ran, made) = since(&world, "web1@latest");
    assert_eq!(mode(&made), "scan", "{ran:?}");
    assert!(ran.err.contains("replaced by another file"), "{ran:?}");
    assert_right(&world, &id(&made));
}

#[test]
fn bitmaps_that_cairn_keeps_count_from_the_snapshot_that_names_them() {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(52, 8 * MIB), "");
    let (ran, first) = nightly(&world);
    assert_eq!((mode(&first), &*ran.err), ("full", ""));
    world.write("a.qcow2", &["write -P 1 1M 64k"]);
    let (ran, second) = nightly(&world);
    assert_eq!((mode(&second), &*ran.err), ("incremental", ""));
    assert_eq!(second["parent"], first["snapshot"]);
    assert!(
        second["disks"][0]["read_bytes"].as_u64() < Some(MIB),
        "{second}"
    );
    world.write("a.qcow2", &["write -P 2 2M 64k"]);
    let (_, third) = nightly(&world);
    assert_eq!(third["parent"], second["snapshot"]);
    assert_eq!(kept(&world).len(), 2, "the one before stays");
    assert_right(&world, &id(&third));

    // The newest is lost: the one before it is counted from, and proven.
    world.write("a.qcow2", &["write -P 3 3M 64k"]);
    world.ok(["forget", &id(&third)]);
    let (ran, fourth) = nightly(&world);
    assert_eq!((mode(&fourth), &*ran.err), ("incremental", ""));
    assert_eq!(fourth["parent"], second["snapshot"]);
    assert_right(&world, &id(&fourth));

    // Both are: nothing is left that is proven.
    world.ok(["forget", &id(&second), &id(&fourth)]);
    world.write("a.qcow2", &["write -P 4 4M 64k"]);
    let (ran, fifth) = nightly(&world);
    assert_eq!(mode(&fifth), "scan");
    assert!(ran.err.contains("no snapshot is left"), "{ran:?}");
    assert_right(&world, &id(&fifth));
    assert_eq!(kept(&world).len(), 1);
}

#[test]
fn a_bitmap_that_a_failed_backup_added_goes_again() {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(53, MIB), "");
    let (_, first) = nightly(&world);
    let before = kept(&world);
    let args = [
        "backup",
        "web1",
        "--disk",
        "vda=a.qcow2,bitmap=auto",
        "--disk",
        "vdb=b.raw",
    ];
    world.run(args).refused(1, "b.raw");
    assert_eq!(kept(&world), before);
    // One that stayed after a kill is nobody's, and goes with the next backup.
    let stray = format!("{}0", before[0]);
    world.tool("qemu-img", &["bitmap", "--add", "a.qcow2", &stray]);
    let (_, second) = nightly(&world);
    assert_eq!(second["parent"], first["snapshot"]);
    assert!(!kept(&world).contains(&stray));
    for (source, parent) in [
        ("b.raw,bitmap=auto", None),
        ("a.qcow2,bitmap=auto", Some("web1")),
    ] {
        let disk = format!("vda={source}");
        let parent = parent.into_iter().flat_map(|parent| ["--parent", parent]);
        let args = ["backup", "web1", "--disk", &disk]
            .into_iter()
            .chain(parent);
        world.run(args).refused(2, "auto");
    }
}

#[test]
fn after_a_failed_audit_everything_is_read() {
    // By hand, cleared at a wrong time.
    let world = by_hand();
    world.backup("a.qcow2");
    world.write("a.qcow2", &["write -P 1 1M 64k"]);
    clear(&world);
    let disk = "vda=a.qcow2,bitmap=b0";
    let audited = [
        "backup", "web1", "--disk", disk, "--parent", "web1", "--audit", "100",
    ];
    world.run(audited).refused(1, "found other bytes");
    let (ran, made) = since(&world, "web1@latest");
    assert_eq!(mode(&made), "scan", "{ran:?}");
    assert!(ran.err.contains("an audit found"), "{ran:?}");
    assert_right(&world, &id(&made));

    // Kept by Cairn, and made anew by someone else.
    let world = World::new();
    world.qcow2("a.qcow2", &crate::world::disk(54, 8 * MIB), "");
    nightly(&world);
    let name = kept(&world).remove(0);
    world.write("a.qcow2", &["write -P 1 1M 64k"]);
    for what in ["--remove", "--add"] {
        world.tool("qemu-img", &["bitmap", what, "a.qcow2", &name]);
    }
    let audited = [
        "backup",
        "web1",
        "--disk",
        "vda=a.qcow2,bitmap=auto",
        "--audit",
        "100",
    ];
    world.run(audited).refused(1, "found other bytes");
    assert!(kept(&world).is_empty());
    let (_, made) = nightly(&world);
    assert_eq!(mode(&made), "scan");
    assert_right(&world, &id(&made));
}

#[test]
fn a_copy_of_a_repository_shares_nothing_that_this_client_remembers() {
    for world in [World::new(), World::encrypted()] {
        world.raw("a.raw", &disk(55, MIB));
        world.backup("a.raw");
        copy_tree(&world.repository(), &world.path("copy"));
        world.backup("a.raw");
        let never = |repository: &str, args: &[&str]| {
            let args = [&["-r", repository, "verify", "--json"], args].concat();
            let ran = world.run(args);
            assert_eq!((ran.code, &*ran.err), (0, ""), "{ran:?}");
            ran.document()["coverage"]["never_packs"]
                .as_u64()
                .expect("a number")
        };
        assert_eq!(never("repository", &[]), 0);
        // What was read of the one was not read of the other, and nothing is missed there.
        assert!(never("copy", &["--metadata-only"]) > 0);
        assert_eq!(world.run(["-r", "copy", "show", "web1"]).err, "");
        assert_eq!(world.run(["-r", "./copy", "show", "web1"]).err, "");
        assert_eq!(world.run(["show", "web1"]).err, "");
    }
}
