//! A repository on a medium that is full to the last byte: a small file system in memory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::mounts::Mount;
use crate::world::{MIB, World, disk};

/// Fills a file system, and returns the file that does.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = File::create(&path).expect("made");
    let mut len = 1 << 20;
    while len > 0 {
        if file.write_all(&vec![1; len]).is_err() {
            len /= 2;
        }
    }
    path
}

fn only_snapshots(world: &World) -> Vec<String> {
    let listed = world.json(["snapshots"]);
    let ids = listed.as_array().expect("a list").iter();
    ids.map(|it| it["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn a_full_medium_loses_nothing_and_gc_frees_it() {
    let world = World::empty();
    let _small = Mount::small(&world.repository(), 48 * MIB);
    world.ok(["init"]);
    let mut disks = Vec::new();
    for number in 0..3 {
        let bytes: Vec<u8> = {
            let mut random = fastrand::Rng::with_seed(number);
            (0..8 * MIB).map(|_| random.u8(..)).collect()
        };
        world.raw("a.raw", &bytes);
        world.backup("a.raw");
        disks.push(bytes);
    }
    let ids = only_snapshots(&world);

    // A backup that does not fit.
    let mut random = fastrand::Rng::with_seed(9);
    let large: Vec<u8> = (0..40 * MIB).map(|_| random.u8(..)).collect();
    world.raw("large.raw", &large);
    let backup = ["backup", "large", "--disk", "vda=large.raw"];
    let ran = world.run(backup);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("no space left"), "{}", ran.err);
    assert!(ran.err.contains("cairn gc"), "{}", ran.err);
    assert_eq!(only_snapshots(&world), ids);

    // Nothing is left at all.
    let filler = fill(&world.repository());
    let ran = world.run(backup);
    assert_eq!(ran.code, 1, "{}", ran.err);
    world.ok(["verify"]);
    world.ok(["forget", &ids[0], &ids[1]]);
    let done = world.json(["gc", "--grace", "0"]);
    assert!(done["deleted_bytes"].as_u64() > Some(10 << 20), "{done}");
    fs::remove_file(filler).expect("removed");

    // And it works again.
    world.raw("large.raw", &large[..20 << 20]);
    world.ok(backup);
    world.ok(["verify"]);
    assert!(world.restored("web1") == disks[2]);
    assert!(world.restored("large") == large[..20 << 20]);
    let compressible = disk(7, MIB);
    world.raw("a.raw", &compressible);
    world.backup("a.raw");
    assert!(
        world.repository().join("gc/reserve").exists(),
        "kept back anew"
    );
}
