//! `cairn backup` by dirty bitmaps and deltas.

use crate::world::{KIB, MIB, World, disk};

/// An image with a bitmap `b0`, backed up in full, then changed by QEMU.
fn changed() -> World {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(20, 24 * MIB), "");
    world.tool("qemu-img", &["bitmap", "--add", "a.qcow2", "b0"]);
    world.backup("a.qcow2");
    world.write(
        "a.qcow2",
        &["write -P 3 5M 200k", "write -z 9M 64k", "write -P 4 20M 1"],
    );
    world
}

fn incremental(world: &World) -> serde_json::Value {
    let disk = "vda=a.qcow2,bitmap=b0";
    world.json(["backup", "web1", "--disk", disk, "--parent", "web1@latest"])
}

#[test]
fn a_bitmap_gives_the_recipe_of_a_full_backup() {
    let world = changed();
    let first = world.json(["show", "web1"]);
    let done = incremental(&world);
    let numbers = &done["disks"][0];
    assert_eq!(done["parent"], first["id"]);
    assert_eq!(numbers["mode"], "incremental");
    let (dirty, read) = (
        numbers["dirty_bytes"].as_u64(),
        numbers["read_bytes"].as_u64(),
    );
    // 200 KiB touch four blocks; the other writes one each.
    assert_eq!(dirty, Some(6 * 64 * KIB));
    assert!(read.is_some_and(|read| read < 2 * MIB), "{done}");
    let full = world.backup("a.qcow2");
    assert_eq!(full["disks"][0]["recipe"], numbers["recipe"]);
    assert_eq!(full["disks"][0]["new_chunks"], 0);

    world.ok(["restore", "web1", "--disk", "vda", "--to", "back.qcow2"]);
    world.assert_equal(("qcow2", "a.qcow2"), ("qcow2", "back.qcow2"));
}

#[test]
fn an_unchanged_disk_reads_next_to_nothing() {
    let world = changed();
    incremental(&world);
    world.tool("qemu-img", &["bitmap", "--clear", "a.qcow2", "b0"]);
    let done = incremental(&world);
    assert_eq!(done["disks"][0]["dirty_bytes"], 0);
    assert_eq!(done["disks"][0]["read_bytes"], 0);
    assert_eq!(done["disks"][0]["new_chunks"], 0);
}

#[test]
fn a_delta_is_laid_over_its_parent() {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(21, 16 * MIB), "");
    world.backup("a.qcow2");
    // The backing string of such a delta leads nowhere any more, and is not followed.
    let dead = "create -q -f qcow2 -u -b nbd://gone/export -F raw delta.qcow2 16M";
    world.tool("qemu-img", &dead.split(' ').collect::<Vec<_>>());
    let writes = ["write -P 3 2M 192k", "write -z 7M 64k", "write -P 8 15M 1M"];
    // Without its backing file QEMU sees zeros there: whole clusters are written.
    let json = "json:{\"driver\":\"qcow2\",\"backing\":null,\
                \"file\":{\"driver\":\"file\",\"filename\":\"delta.qcow2\"}}";
    let mut args: Vec<&str> = writes.iter().flat_map(|write| ["-c", *write]).collect();
    args.push(json);
    world.tool("qemu-io", &args);
    let disk = "vda=delta.qcow2,delta";
    let done = world.json(["backup", "web1", "--disk", disk, "--parent", "web1"]);
    assert_eq!(done["disks"][0]["mode"], "incremental");
    world.write("a.qcow2", &writes);
    world.ok(["restore", "web1", "--disk", "vda", "--to", "back.raw"]);
    world.assert_equal(("qcow2", "a.qcow2"), ("raw", "back.raw"));
    let full = world.backup("a.qcow2");
    assert_eq!(full["disks"][0]["recipe"], done["disks"][0]["recipe"]);
}

#[test]
fn a_bitmap_without_a_parent_is_left_aside_and_said() {
    let world = changed();
    let args = [
        "backup",
        "new",
        "--disk",
        "vda=a.qcow2,bitmap=b0",
        "--parent",
        "none",
    ];
    let ran = world.run(args.iter().chain(&["--json"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("bitmap is left aside"), "{ran:?}");
    assert_eq!(ran.document()["disks"][0]["mode"], "full");
}

#[test]
fn a_parent_that_cannot_be_is_refused() {
    let world = changed();
    world.raw("b.raw", &disk(22, MIB));
    let other = world.json(["backup", "other", "--disk", "vda=b.raw"]);
    let other = other["snapshot"].as_str().expect("an id").to_owned();
    let parent = |parent: &str| {
        world.run([
            "backup",
            "web1",
            "--disk",
            "vda=a.qcow2,bitmap=b0",
            "--parent",
            parent,
        ])
    };
    parent(&other).refused(2, "another VM");
    parent("web1@2001-01-01").refused(1, "there is no snapshot");
    world.ok(["forget", "web1", "--yes"]);
    parent("web1").refused(1, "there is no snapshot");
    let args = [
        "backup",
        "web1",
        "--disk",
        "vda=a.qcow2,delta",
        "--parent",
        "none",
    ];
    world.run(args).refused(2, "delta");
}

#[test]
fn a_bitmap_that_cannot_be_trusted_is_said_and_everything_is_read() {
    let world = changed();
    let bitmap = |name: &str, why: &str| {
        let disk = format!("vda=a.qcow2,bitmap={name}");
        let args = [
            "backup", "web1", "--disk", &disk, "--parent", "web1", "--json",
        ];
        let ran = world.run(args);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains(why), "{ran:?}");
        assert_eq!(ran.document()["disks"][0]["mode"], "scan");
        ran.document()["disks"][0]["recipe"].clone()
    };
    let recipe = bitmap("absent", "`absent`");
    // A bitmap that a crashed QEMU left behind is in use for ever.
    let image = world.path("a.qcow2");
    let mut bytes = std::fs::read(&image).expect("the image can be read");
    let name = bytes.windows(2).rposition(|two| two == b"b0");
    let name = name.expect("the directory names it");
    // Its flags end 8 bytes before the name: kind, granularity, and two lengths lie between.
    bytes[name - 9] |= 1;
    std::fs::write(&image, bytes).expect("the image can be written");
    assert_eq!(bitmap("b0", "in use"), recipe);
}
