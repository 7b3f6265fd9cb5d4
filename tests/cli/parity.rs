//! `cairn init --parity`: what a disk loses of a pack comes back without a second copy.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{MIB, World, disk, text};

const BLOCK: u64 = 4096;

/// A repository with 5 % of parity, and one backup of a disk.
fn backed_up(mut options: Vec<&str>) -> World {
    let mut world = World::empty();
    options.splice(0..0, ["init", "--parity", "5%"]);
    if options.contains(&"--encrypt") {
        world.passphrase = Some(crate::world::PASSPHRASE);
    }
    assert_eq!(world.json(options)["parity_percent"], 5);
    world.raw("a.raw", &disk(60, 8 * MIB));
    world.backup("a.raw");
    world
}

fn largest(world: &World, folder: &str) -> PathBuf {
    let packs = world.stored(folder).into_iter();
    let largest = packs.max_by_key(|pack| pack.metadata().map_or(0, |meta| meta.len()));
    largest.expect("there are some")
}

/// Writes zeros over a part of a file, as a tool for disks does.
fn overwrite(world: &World, file: &Path, first: u64, blocks: u64) {
    let options = [
        "if=/dev/zero".to_owned(),
        format!("of={}", text(file)),
        format!("bs={BLOCK}"),
        format!("seek={first}"),
        format!("count={blocks}"),
        "conv=notrunc".to_owned(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    world.tool("dd", &options);
}

#[test]
fn a_burst_of_damage_heals_wherever_it_is() {
    for options in [vec![], vec!["--encrypt"]] {
        let world = backed_up(options);
        let pack = largest(&world, "packs");
        let whole = fs::read(&pack).expect("it is there");
        let blocks = (whole.len() as u64).div_ceil(BLOCK);
        let burst = blocks / 25;
        assert!(burst > 20, "{blocks} blocks are too few to show anything");
        for first in [0, blocks / 3, blocks - 1 - burst] {
            overwrite(&world, &pack, first, burst);
            assert_eq!(world.run(["verify"]).code, 13);
            let report = world.json(["repair"]);
            assert_eq!(report["rebuilt_packs"].as_array().map(Vec::len), Some(1));
            assert_eq!(report["damaged_packs"], serde_json::json!([]));
            assert!(fs::read(&pack).expect("it is there") == whole, "{first}");
            world.ok(["verify"]);
            assert!(world.restored("web1") == fs::read(world.path("a.raw")).expect("the disk"));
        }
        overwrite(&world, &pack, 0, burst);
        let said = world.ok(["repair"]);
        assert!(said.contains("rebuilt from its parity"), "{said}");
        assert!(said.contains("1 packs rebuilt from it"), "{said}");
    }
}

#[test]
fn parity_is_told_of_checked_and_made_anew() {
    let world = backed_up(vec![]);
    let stats = world.json(["stats"]);
    let files = world.stored("parity").into_iter();
    let len: u64 = files
        .map(|file| file.metadata().map_or(0, |meta| meta.len()))
        .sum();
    assert!(len > 0);
    assert_eq!(
        (&stats["parity_percent"], &stats["parity_bytes"]),
        (&5.into(), &len.into())
    );
    assert!(stats["stored_bytes"].as_u64() > Some(len));
    assert!(world.ok(["stats"]).contains("(5 %)"));

    let parity = largest(&world, "parity");
    let whole = fs::read(&parity).expect("it is there");
    overwrite(&world, &parity, 1, 1);
    for options in [vec!["verify"], vec!["verify", "--stored"]] {
        let found = world.run(options);
        assert_eq!(found.code, 13, "{found:?}");
        assert!(found.out.contains("parity/"), "{found:?}");
    }
    let report = world.json(["repair"]);
    assert_eq!(report["renewed_parity"].as_array().map(Vec::len), Some(1));
    assert!(fs::read(&parity).expect("it is there") == whole);

    fs::remove_file(&parity).expect("removed");
    assert_eq!(world.json(["verify"])["without_parity"], 1);
    assert!(world.ok(["verify"]).contains("1 packs have no parity"));
    assert!(world.ok(["repair"]).contains("that of 1 made anew"));
    assert!(fs::read(&parity).expect("it is there") == whole);
}

#[test]
fn a_repository_has_parity_only_if_it_was_asked_for() {
    let world = World::new();
    world.raw("a.raw", &disk(60, MIB));
    world.backup("a.raw");
    assert!(world.stored("parity").is_empty());
    let stats = world.json(["stats"]);
    assert_eq!(stats["parity_percent"], serde_json::Value::Null);
    assert_eq!(stats["parity_bytes"], 0);
    for share in ["0", "2.5%", "101", "much"] {
        let world = World::empty();
        world
            .run(["init", "--parity", share])
            .refused(2, "1 to 100");
        assert!(!world.repository().exists());
    }
}
