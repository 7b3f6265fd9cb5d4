//! Disks that were shrunk and grown back: QEMU marks nothing of that, and the tail is zeros.

use std::fs;

use serde_json::Value;

use crate::world::{MIB, World};

const SIZE: u64 = 64 * MIB;

/// A disk of random bytes up to `data`, and of zeros from there on, with the bitmap `b0`.
fn world(data: u64) -> World {
    let world = World::new();
    let mut bytes = vec![0; usize::try_from(SIZE).expect("it fits")];
    let data = usize::try_from(data).expect("it fits");
    fastrand::Rng::with_seed(7).fill(&mut bytes[..data]);
    world.qcow2("a.qcow2", &bytes, "");
    world.tool("qemu-img", &["bitmap", "--add", "a.qcow2", "b0"]);
    world
}

fn resize(world: &World, size: u64) {
    let size = size.to_string();
    let args = ["resize", "-q", "--shrink", "a.qcow2", &size];
    world.tool("qemu-img", &args);
}

/// Backs the disk up by a bitmap, and fails unless the snapshot has what is in the image.
#[track_caller]
fn right(world: &World, bitmap: &str, parent: Option<&str>) -> Value {
    let disk = format!("vda=a.qcow2,bitmap={bitmap}");
    let mut args = vec!["backup", "web1", "--disk", &disk];
    args.extend(parent.into_iter().flat_map(|parent| ["--parent", parent]));
    let made = world.json(args);
    let snapshot = made["snapshot"].as_str().expect("an id");
    world.ok(["restore", snapshot, "--disk", "vda", "--to", "back.raw"]);
    world.assert_equal(("qcow2", "a.qcow2"), ("raw", "back.raw"));
    fs::remove_file(world.path("back.raw")).expect("it was restored");
    made
}

#[track_caller]
fn assert_found(made: &Value) {
    let disk = &made["disks"][0];
    assert_eq!(disk["mode"], "scan", "{made}");
    let doubt = disk["doubt"].as_str().expect("a doubt");
    assert!(doubt.contains("differs from the parent"), "{doubt}");
}

#[test]
fn the_tail_of_a_disk_that_was_shrunk_and_grown_back_is_read_again() {
    for lost in [64 * 1024, 200 * 1024, 5 * MIB] {
        let world = world(SIZE);
        right(&world, "auto", None);
        resize(&world, SIZE - lost);
        resize(&world, SIZE);
        assert_found(&right(&world, "auto", None));
    }
}

#[test]
fn so_it_is_for_bitmaps_made_by_hand_and_for_disks_that_grew_to_another_size() {
    for size in [SIZE, SIZE - 512, SIZE + 3 * MIB] {
        let world = world(SIZE);
        world.backup("a.qcow2");
        resize(&world, SIZE - 128 * 1024);
        resize(&world, size);
        assert_found(&right(&world, "b0", Some("web1@latest")));
    }
}

#[test]
fn neither_zeros_at_the_end_nor_what_was_written_there_since_hides_it() {
    for (data, commands) in [
        (SIZE - 20 * MIB, &["write -P 9 50M 64k"][..]),
        (SIZE, &["write -P 9 65472k 64k"]),
        (SIZE, &["write -P 9 63M 800k", "write -z 65472k 64k"]),
    ] {
        let world = world(data);
        right(&world, "auto", None);
        resize(&world, data - 128 * 1024);
        resize(&world, SIZE);
        world.write("a.qcow2", commands);
        assert_found(&right(&world, "auto", None));
    }
}

#[test]
fn a_disk_whose_end_is_as_it_was_is_read_by_its_changes() {
    for commands in [&["write -P 9 1M 64k"][..], &["write -P 9 60M 4M"]] {
        let world = world(SIZE - 10 * MIB);
        right(&world, "auto", None);
        world.write("a.qcow2", commands);
        let made = right(&world, "auto", None);
        let disk = &made["disks"][0];
        assert_eq!(
            (&disk["mode"], &disk["doubt"]),
            (&"incremental".into(), &Value::Null)
        );
    }
}
