//! `cairn restore --salvage`: what is whole of a snapshot that is damaged, and what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use crate::guest_disks::{HostMount, format, populate};
use crate::mounts::LoopDevice;
use crate::world::{MIB, World, damage, disk, text};

/// Returns the ranges of a map in ddrescue's form that are marked so; fails unless the map covers
/// the disk without gaps.
fn marked(map: &str, status: &str, size: u64) -> Vec<Range<u64>> {
    let mut lines = map.lines().filter(|line| !line.starts_with('#'));
    assert!(
        lines
            .next()
            .is_some_and(|line| line.starts_with("0x00000000")),
        "{map}"
    );
    let number = |text: &str| {
        u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hexadecimal number")
    };
    let (mut at, mut found) = (0, Vec::new());
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [start, len, is] = fields[..] else {
            panic!("{line}");
        };
        assert_eq!(number(start), at, "{map}");
        at += number(len);
        if is == status {
            found.push(number(start)..at);
        }
    }
    assert_eq!(at, size, "{map}");
    found
}

/// Damages a pack in the middle; returns whether `verify` finds it.
fn damaged(world: &World, number: usize) {
    let packs = world.stored("packs");
    damage(&packs[number % packs.len()]);
}

#[track_caller]
fn salvage(world: &World, to: &str) -> Value {
    let ran = world.run([
        "restore",
        "web1",
        "--disk",
        "vda",
        "--to",
        to,
        "--salvage",
        "--json",
    ]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("INCOMPLETE"), "{ran:?}");
    ran.document()
}

/// Compares what was salvaged with what was there: equal but where the map says that it is lost,
/// and zeros there.
#[track_caller]
fn assert_salvaged(world: &World, to: &str, bytes: &[u8]) -> Vec<Range<u64>> {
    let map = fs::read_to_string(world.path(&format!("{to}.incomplete.map"))).expect("a map");
    let lost = marked(&map, "-", bytes.len() as u64);
    let mut expected = bytes.to_vec();
    for range in &lost {
        expected[range.start as usize..range.end as usize].fill(0);
    }
    let found = fs::read(world.path(&format!("{to}.incomplete"))).expect("what is whole");
    assert!(found == expected, "salvaged bytes differ");
    assert!(
        !world.path(to).exists(),
        "what is incomplete has the name of what is whole"
    );
    lost
}

#[test]
fn what_is_whole_is_restored_and_the_rest_is_mapped() {
    let bytes = disk(70, 40 * MIB);
    let world = World::new();
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    let args = ["restore", "web1", "--disk", "vda", "--to", "b.raw"];
    for number in 0..world.stored("packs").len() {
        let pack = &world.stored("packs")[number];
        let whole = fs::read(pack).expect("the pack can be read");
        damaged(&world, number);
        let refused = world.run(args);
        refused.refused(13, "vda");
        assert!(refused.err.contains("--salvage"), "{refused:?}");
        let done = salvage(&world, "b.raw");
        let lost = assert_salvaged(&world, "b.raw", &bytes);
        assert!(!lost.is_empty(), "{done}");
        let total: u64 = lost.iter().map(|range| range.end - range.start).sum();
        assert!(
            total < 20 * MIB,
            "{total} bytes are lost for one bit of pack {number}"
        );
        assert_eq!(done["salvaged"]["losses"][0]["lost_bytes"], total);
        let ranges = &done["salvaged"]["losses"][0]["ranges"];
        assert_eq!(ranges[0]["offset"], lost[0].start);
        assert_eq!(ranges.as_array().map(Vec::len), Some(lost.len()));

        let verified = world.run(["verify"]);
        assert_eq!(verified.code, 13, "{verified:?}");
        assert!(verified.out.contains("`cairn repair`"), "{verified:?}");
        assert!(verified.out.contains("--salvage"), "{verified:?}");
        fs::write(pack, whole).expect("the pack can be written");
        for name in [
            "b.raw.incomplete",
            "b.raw.incomplete.map",
            "b.raw.incomplete.files",
        ] {
            fs::remove_file(world.path(name)).expect("it was made");
        }
    }
    // Where nothing is lost nothing says so.
    let done = world.json(args.iter().chain(&["--salvage"]));
    assert!(done["salvaged"].is_null(), "{done}");
    assert!(fs::read(world.path("b.raw")).expect("restored") == bytes);
    assert!(!world.path("b.raw.incomplete").exists());
    world
        .run(args.iter().chain(&["--salvage"]))
        .refused(1, "--force");
    world.ok(args.iter().chain(&["--salvage", "--force"]));
    assert!(fs::read(world.path("b.raw")).expect("restored") == bytes);
}

#[test]
fn lost_recipes_take_no_more_than_their_own() {
    let bytes = disk(71, 40 * MIB);
    let world = World::new();
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    // All packs of nodes: nothing of the disk is left, and that is said, not zeros that look whole.
    let mut gone = 0;
    for pack in world.stored("packs") {
        let before = fs::read(&pack).expect("the pack can be read");
        fs::remove_file(&pack).expect("it can be removed");
        gone += 1;
        salvage(&world, "b.raw");
        let lost = assert_salvaged(&world, "b.raw", &bytes);
        assert!(!lost.is_empty());
        fs::write(&pack, before).expect("it can be written");
        for name in [
            "b.raw.incomplete",
            "b.raw.incomplete.map",
            "b.raw.incomplete.files",
        ] {
            fs::remove_file(world.path(name)).expect("it was made");
        }
    }
    assert!(gone > 1, "chunks and nodes are in packs of their own");
}

#[test]
fn a_qcow2_is_salvaged_too() {
    let bytes = disk(72, 20 * MIB);
    let world = World::new();
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    damaged(&world, 0);
    salvage(&world, "b.qcow2");
    let map = fs::read_to_string(world.path("b.qcow2.incomplete.map")).expect("a map");
    let mut expected = bytes;
    for range in marked(&map, "-", 20 * MIB) {
        expected[range.start as usize..range.end as usize].fill(0);
    }
    world.raw("expected.raw", &expected);
    world.assert_equal(("qcow2", "b.qcow2.incomplete"), ("raw", "expected.raw"));
    // A device cannot say that it is incomplete.
    let device = LoopDevice::attach(&world.path("expected.raw"), &[]);
    let to = text(device.path());
    let args = [
        "restore",
        "web1",
        "--disk",
        "vda",
        "--to",
        to,
        "--salvage",
        "--force",
    ];
    world.run(args).refused(2, "cannot be named as incomplete");
}

#[test]
fn files_that_lost_bytes_belong_to_are_named() {
    for (seed, kind) in [(9, "ext4"), (10, "xfs"), (11, "btrfs")] {
        let world = World::new();
        format(&world, kind, "a.raw", 400 * MIB);
        populate(&HostMount::new(&world, "a.raw", "rw").path, seed);
        world.backup("a.raw");
        let packs = world.stored("packs");
        let pack = packs
            .iter()
            .max_by_key(|pack| len(pack))
            .expect("there are packs");
        let bytes = fs::read(pack).expect("the pack can be read");
        // One bit at a time, all over what lies in the pack.
        let mut named = 0;
        for part in 1..9 {
            let mut hurt = bytes.clone();
            hurt[bytes.len() / 9 * part] ^= 4;
            fs::write(pack, hurt).expect("the pack can be written");
            named += name_hurt_files(&world, kind);
        }
        assert!(named > 2, "{kind}: next to nothing was hurt");
    }
}

/// Salvages the disk, and fails unless the files that are named are those that the kernel reads
/// otherwise from what was salvaged; returns how many these are. Where the file system cannot be
/// mounted any more, there must be some.
fn name_hurt_files(world: &World, kind: &str) -> usize {
    let args = [
        "restore",
        "web1",
        "--to",
        "out",
        "--salvage",
        "--json",
        "--force",
    ];
    let ran = world.run(args);
    assert_eq!(ran.code, 3, "{ran:?}");
    let done = ran.document();
    let listed = fs::read_to_string(world.path("out.incomplete.files")).expect("a list");
    assert_eq!(done["salvaged"]["file_count"], listed.lines().count());
    let listed: Vec<&str> = listed.lines().collect();
    let options = match kind {
        "ext4" => "ro,noload",
        "xfs" => "ro,norecovery,nouuid",
        _ => "ro",
    };
    // One after the other: both have the same UUID.
    let whole = contents(&HostMount::new(world, "a.raw", "ro").path);
    let Ok(mounted) = HostMount::attempt(world, "out.incomplete", options) else {
        assert!(!listed.is_empty(), "{kind}: {done}");
        return listed.len();
    };
    let salvaged = contents(&mounted.path);
    let differ = whole
        .iter()
        .filter(|(path, bytes)| salvaged.get(*path) != Some(bytes));
    let differ: BTreeSet<String> = differ.map(|(path, _)| format!("vda{path}")).collect();
    // A folder that lost some of itself is named for all that is below it, though the kernel may
    // list the rest.
    let (folders, files): (Vec<&str>, Vec<&str>) =
        listed.iter().partition(|name| name.ends_with('/'));
    let is_below = |path: &str| folders.iter().any(|folder| path.starts_with(folder));
    let alone = differ.iter().filter(|path| !is_below(path));
    let alone: BTreeSet<&str> = alone.map(String::as_str).collect();
    let named: BTreeSet<&str> = files.into_iter().filter(|path| !is_below(path)).collect();
    assert_eq!(named, alone, "{kind}: {done}, {listed:?}");
    differ.len()
}

/// Returns all regular files below a folder, by their paths, with their bytes if these can be read.
/// What the kernel finds damaged is left out, as a folder is that lost its blocks.
fn contents(folder: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // The kernel ends a listing at the first damage.
        let entries = fs::read_dir(&next)
            .into_iter()
            .flatten()
            .map_while(Result::ok);
        for entry in entries {
            let (path, kind) = (entry.path(), entry.file_type().expect("its kind is known"));
            let name = path.strip_prefix(folder).expect("it is below");
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.insert(format!("/{}", text(name)), fs::read(&path).ok());
            }
        }
    }
    found
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").len()
}
