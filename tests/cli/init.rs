//! `cairn init`.

use std::fs;

use crate::world::World;

#[test]
fn a_new_repository_is_described() {
    let world = World::empty();
    let made = world.json(["init", "--chunk-size", "64KiB", "--compression", "zstd:3"]);
    assert_eq!(made["repository_id"].as_str().map(str::len), Some(64));
    assert_eq!(made["chunk_size"], 64 * 1024);
    assert_eq!(made["compression"], "zstd:3");
    assert_eq!(made["encrypted"], false);
    assert!(world.repository().join("config").is_file());
    assert_eq!(world.json(["snapshots"]), serde_json::json!([]));
}

#[test]
fn a_folder_that_holds_something_is_refused_and_left_alone() {
    let world = World::empty();
    fs::create_dir(world.repository()).expect("a folder can be made");
    fs::write(world.repository().join("letter"), "dear").expect("a file can be made");
    world.run(["init"]).refused(1, "not empty");
    let left: Vec<_> = fs::read_dir(world.repository()).expect("listed").collect();
    assert_eq!(left.len(), 1, "{left:?}");

    let world = World::new();
    world.run(["init"]).refused(1, "there is a repository");
    world.ok(["snapshots"]);
}

#[test]
fn a_failed_init_leaves_no_repository() {
    let world = World::empty();
    // There is nobody to type a passphrase.
    world.run(["init", "--encrypt"]).refused(2, "passphrase");
    assert!(!world.repository().exists());
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let world = World::empty();
    for args in [
        ["--chunk-size", "3KiB"],
        ["--chunk-size", "2MiB"],
        ["--compression", "gzip"],
        ["--compression", "zstd:99"],
        ["--frame-size", "1GiB"],
        ["--pack-size", "4KiB"],
        ["--pack-size", "1GiB"],
    ] {
        let ran = world.run(["init"].iter().chain(&args));
        ran.refused(2, args[0]);
    }
    assert!(!world.repository().exists());
}

#[test]
fn packs_are_as_long_as_that_was_asked() {
    let world = World::empty();
    world.ok(["init", "--pack-size", "1MiB"]);
    let mut disk = vec![0; 5 << 20];
    fastrand::Rng::with_seed(3).fill(&mut disk);
    world.raw("disk.raw", &disk);
    world.backup("disk.raw");
    let stats = world.json(["stats"]);
    assert!(stats["packs"].as_u64() >= Some(6), "{stats}");
    assert!(world.restored("web1") == disk);
}

#[test]
fn nothing_is_compressed_where_that_was_asked() {
    let world = World::empty();
    world.ok(["init", "--compression", "none"]);
    let disk = vec![b'a'; 1 << 20];
    world.raw("disk.raw", &disk);
    let done = world.backup("disk.raw");
    let numbers = &done["disks"][0];
    assert!(numbers["stored_bytes"].as_u64() >= numbers["new_bytes"].as_u64());
    assert!(world.restored("web1") == disk);
}
