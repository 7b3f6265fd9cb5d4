//! `cairn backup`: sources, what is said of them, and mistakes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::mounts::LoopDevice;
use crate::waiting::wait_for;
use crate::world::{KIB, MIB, World, disk, text};

#[test]
fn a_first_backup_is_full_and_says_what_it_did() {
    let world = World::new();
    let bytes = disk(1, 8 * MIB);
    world.raw("a.raw", &bytes);
    let args = [
        "backup",
        "web1",
        "--disk",
        "vda=a.raw",
        "--tag",
        "job=night",
    ];
    let done = world.json(args);
    assert_eq!(done["vm"], "web1");
    assert!(done["parent"].is_null());
    assert_eq!(done["snapshot"].as_str().map(str::len), Some(64));
    let numbers = &done["disks"][0];
    assert_eq!(numbers["target"], "vda");
    assert_eq!(numbers["size"], 8 * MIB);
    assert_eq!(numbers["mode"], "full");
    let number = |name: &str| {
        numbers[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}"))
    };
    let data = bytes
        .chunks(64 * 1024)
        .filter(|block| block.iter().any(|byte| *byte != 0));
    let data: usize = data.map(<[u8]>::len).sum();
    assert_eq!(number("new_bytes") + number("reused_bytes"), data as u64);
    assert!(number("read_bytes") >= data as u64);
    assert!(number("stored_bytes") > 0 && number("stored_bytes") < data as u64);
    assert!(number("new_chunks") > 0);
    assert!(numbers["dirty_bytes"].is_u64());
    assert_eq!(numbers["recipe"].as_str().map(str::len), Some(64));
    assert!(world.restored("web1") == bytes);
}

#[test]
fn a_second_backup_of_the_same_bytes_stores_no_chunk() {
    let world = World::new();
    let bytes = disk(2, 6 * MIB);
    world.raw("a.raw", &bytes);
    world.qcow2("b.qcow2", &bytes, "compression_type=zstd");
    let first = world.backup("a.raw");
    let packs = world.stored("packs");
    let second = world.backup("b.qcow2");
    assert_eq!(second["disks"][0]["mode"], "scan");
    assert_eq!(second["disks"][0]["new_chunks"], 0);
    assert_eq!(second["disks"][0]["stored_bytes"], 0);
    assert_eq!(second["disks"][0]["recipe"], first["disks"][0]["recipe"]);
    assert_eq!(world.stored("packs"), packs);
}

#[test]
fn every_disk_of_a_vm_is_in_one_snapshot() {
    let world = World::new();
    let (a, b) = (disk(3, 3 * MIB), disk(4, MIB + 512));
    world.raw("a.raw", &a);
    world.qcow2("b.qcow2", &disk(4, MIB + 512), "cluster_size=512");
    let args = [
        "backup",
        "db2",
        "--disk",
        "vda=a.raw",
        "--disk",
        "vdb=b.qcow2",
    ];
    let done = world.json(args);
    assert_eq!(done["disks"].as_array().map(Vec::len), Some(2));
    world.ok(["restore", "db2@latest", "--to", "out/"]);
    assert!(fs::read(world.path("out/vda.raw")).expect("restored") == a);
    assert!(fs::read(world.path("out/vdb.raw")).expect("restored") == b);
}

#[test]
fn a_backing_file_is_followed_only_where_it_is_allowed() {
    let world = World::new();
    world.qcow2("base.qcow2", &disk(5, 4 * MIB), "");
    let args = "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2";
    world.tool("qemu-img", &args.split(' ').collect::<Vec<_>>());
    world.write("top.qcow2", &["write -P 7 1M 64k"]);
    let refused = world.run(["backup", "web1", "--disk", "vda=top.qcow2"]);
    refused.refused(1, "backing file");
    assert!(refused.err.contains("backing=allow"), "{refused:?}");
    world.backup("top.qcow2,backing=allow");
    fs::write(world.path("r.raw"), world.restored("web1")).expect("there is space");
    world.assert_equal(("qcow2", "top.qcow2"), ("raw", "r.raw"));
}

#[test]
fn a_data_file_is_followed_only_where_it_is_allowed() {
    let world = World::new();
    let bytes = disk(6, 2 * MIB);
    world.qcow2("a.qcow2", &bytes, "data_file=a.data");
    let refused = world.run(["backup", "web1", "--disk", "vda=a.qcow2"]);
    refused.refused(1, "data file");
    assert!(refused.err.contains("data-file=allow"), "{refused:?}");
    world.backup("a.qcow2,data-file=allow");
    assert!(world.restored("web1") == bytes);
}

#[test]
fn an_internal_snapshot_is_read_by_its_name() {
    let world = World::new();
    let bytes = disk(7, 2 * MIB);
    world.qcow2("a.qcow2", &bytes, "");
    world.tool("qemu-img", &["snapshot", "-c", "before", "a.qcow2"]);
    world.write("a.qcow2", &["write -P 9 0 1M"]);
    world.backup("a.qcow2,snapshot=before");
    assert!(world.restored("web1") == bytes);
    let refused = world.run(["backup", "web1", "--disk", "vda=a.qcow2,snapshot=after"]);
    refused.refused(1, "`after`");
}

#[test]
fn a_block_device_is_a_disk() {
    let world = World::new();
    let bytes = disk(8, 4 * MIB);
    world.raw("medium", &bytes);
    let attached = LoopDevice::attach(&world.path("medium"), &["--read-only"]);
    let device = text(attached.path());
    let done = world.run([
        "backup",
        "web1",
        "--disk",
        &format!("vda={device},format=raw"),
    ]);
    drop(attached);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(world.restored("web1") == bytes);
}

#[test]
fn a_terabyte_of_holes_is_not_read() {
    let world = World::new();
    let file = File::create(world.path("huge.raw")).expect("a file can be made");
    file.set_len(1 << 40)
        .expect("the file system takes sparse files");
    for place in [0, 1 << 30, 1 << 39, (1 << 40) - MIB] {
        file.write_all_at(&disk(place, MIB), place)
            .expect("there is space");
    }
    let done = world.backup("huge.raw");
    let read = done["disks"][0]["read_bytes"].as_u64();
    assert!(read.is_some_and(|read| read <= 8 * MIB), "{done}");
    let stored: u64 = world
        .stored("packs")
        .iter()
        .map(|pack| pack.metadata().map_or(0, |meta| meta.len()))
        .sum();
    assert!(stored < 6 * MIB, "{stored}");
    world.ok(["restore", "web1", "--disk", "vda", "--to", "back.raw"]);
    world.assert_equal(("raw", "huge.raw"), ("raw", "back.raw"));
    let used = world.tool("du", &["-k", "back.raw"]);
    let used: u64 = used
        .split('\t')
        .next()
        .and_then(|kib| kib.parse().ok())
        .expect("a number");
    assert!(used * KIB < 8 * MIB, "{used} KiB: holes stay holes");
}

#[test]
fn a_write_by_others_is_noticed() {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(9, MIB), "");
    let socket = world.path("nbd.socket");
    let mut server = std::process::Command::new("qemu-nbd")
        .args(["-f", "qcow2", "-k"])
        .arg(&socket)
        .arg(world.path("a.qcow2"))
        .spawn()
        .expect("cannot run qemu-nbd (package qemu-utils)");
    wait_for("qemu-nbd listens", || socket.exists());
    let refused = world.run(["backup", "web1", "--disk", "vda=a.qcow2"]);
    server.kill().expect("the server can be ended");
    server.wait().expect("the server can be waited for");
    refused.refused(11, "open for writing in qemu-nbd (process ");
}

#[test]
fn mistakes_are_named_and_publish_nothing() {
    let world = World::new();
    world.raw("a.raw", &disk(10, MIB));
    world.raw("nothing-says-what", &[0; 512]);
    fs::create_dir(world.path("folder.raw")).expect("a folder can be made");
    for (disks, code, saying) in [
        (&["vda"][..], 2, "TARGET=SOURCE"),
        (&["vda=a.raw", "vda=a.raw"], 2, "`vda` is given twice"),
        (&["vda=a.raw,frmat=raw"], 2, "`frmat`"),
        (&["vda=a.raw,bitmap=b0"], 2, "--parent"),
        (&["vda=a.raw,delta"], 2, "--parent"),
        (&["vda=nbd+vsock://host/disk"], 2, "NBD"),
        (&["vda=a.raw,snapshot=s"], 2, "needs format=qcow2"),
        (&["vda=nothing-says-what"], 1, "format=raw or format=qcow2"),
        (&["vda=absent.raw"], 1, "absent.raw"),
        (&["vda=folder.raw"], 1, "folder"),
        (&["vda=a.raw,format=qcow2"], 1, "a.raw"),
    ] {
        let mut args = vec!["backup", "web1"];
        args.extend(disks.iter().flat_map(|disk| ["--disk", disk]));
        world.run(args).refused(code, saying);
    }
    let tag = ["backup", "web1", "--disk", "vda=a.raw", "--tag", "novalue"];
    world.run(tag).refused(2, "KEY=VALUE");
    let name = ["backup", "", "--disk", "vda=a.raw"];
    assert_eq!(world.run(name).code, 2);
    assert_eq!(world.json(["snapshots"]), serde_json::json!([]));
}
