//! `cairn restore`: where to, in which format, and what is never overwritten.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::mounts::LoopDevice;
use crate::world::{MIB, World, disk, text};

fn backed_up(bytes: &[u8]) -> World {
    let world = World::new();
    world.raw("a.raw", bytes);
    world.backup("a.raw");
    world
}

#[test]
fn nothing_is_overwritten_without_force() {
    let bytes = disk(40, 2 * MIB);
    let world = backed_up(&bytes);
    fs::write(world.path("there"), "precious").expect("a file can be made");
    let args = ["restore", "web1", "--disk", "vda", "--to", "there"];
    let refused = world.run(args);
    refused.refused(1, "there");
    assert!(refused.err.contains("--force"), "{refused:?}");
    assert_eq!(
        fs::read(world.path("there")).expect("still there"),
        b"precious"
    );
    world.ok(args.iter().chain(&["--force"]));
    assert!(fs::read(world.path("there")).expect("restored") == bytes);
}

#[test]
fn what_a_qemu_holds_is_not_overwritten() {
    let bytes = disk(40, 2 * MIB);
    let world = backed_up(&bytes);
    let there = vec![7; 2 * MIB as usize];
    fs::write(world.path("there.raw"), &there).expect("a file can be made");
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]).arg(world.path("there.raw"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = command.spawn().expect("qemu-io can be run");
    let (input, output) = (holder.stdin.as_mut(), holder.stdout.as_mut());
    writeln!(input.expect("a pipe"), "length").expect("qemu-io listens");
    // It answers when the image is open.
    let mut answer = [0; 7];
    let output = output.expect("a pipe");
    while !answer.ends_with(b"MiB") {
        answer.rotate_left(1);
        output.read_exact(&mut answer[6..]).expect("it answers");
    }
    let args = ["restore", "web1", "--disk", "vda", "--to", "there.raw"];
    let who = format!("qemu-io (process {})", holder.id());
    world.run(args).refused(11, &who);
    world.run(args.iter().chain(&["--force"])).refused(11, &who);
    assert!(fs::read(world.path("there.raw")).expect("still there") == there);
    holder.kill().expect("it runs");
    holder.wait().expect("it ends");
    world.ok(args.iter().chain(&["--force"]));
    assert!(fs::read(world.path("there.raw")).expect("restored") == bytes);
}

#[test]
fn a_folder_gets_every_disk_and_what_is_known_of_the_vm() {
    let world = World::new();
    let (a, b) = (disk(41, MIB), disk(42, 3 * MIB));
    world.raw("a.raw", &a);
    world.raw("b.raw", &b);
    let args = [
        "backup",
        "web1",
        "--disk",
        "vda=a.raw",
        "--disk",
        "vdb=b.raw",
    ];
    let snapshot = world.json(args)["snapshot"].clone();
    let done = world.json(["restore", "web1", "--to", "out/"]);
    assert_eq!(done["snapshot"], snapshot);
    assert_eq!(done["disks"][1]["target"], "vdb");
    assert!(
        done["disks"][1]["path"]
            .as_str()
            .is_some_and(|path| path.ends_with("vdb.raw"))
    );
    assert!(
        done["disks"][1]["written_bytes"]
            .as_u64()
            .is_some_and(|written| written > 0)
    );
    assert!(fs::read(world.path("out/vda.raw")).expect("restored") == a);
    assert!(fs::read(world.path("out/vdb.raw")).expect("restored") == b);
    let manifest = fs::read(world.path("out/manifest.json")).expect("written");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    assert_eq!(manifest["vm"], "web1");

    world
        .run(["restore", "web1", "--to", "out/"])
        .refused(2, "--force");
    world.ok(["restore", "web1", "--to", "out", "--force"]);
    world
        .run(["restore", "web1", "--to", "file.raw"])
        .refused(2, "--disk");
    let absent = ["restore", "web1", "--disk", "vdz", "--to", "file.raw"];
    world.run(absent).refused(2, "vda, vdb");
    assert!(!world.path("file.raw").exists());
}

#[test]
fn a_qcow2_is_whole_and_equal() {
    let bytes = disk(43, 5 * MIB + 512);
    let world = backed_up(&bytes);
    world.ok(["restore", "web1", "--disk", "vda", "--to", "by-name.qcow2"]);
    let args = ["restore", "web1", "--disk", "vda", "--to", "by-option"];
    world.ok(args.iter().chain(&["--format", "qcow2"]));
    for image in ["by-name.qcow2", "by-option"] {
        world.tool("qemu-img", &["check", "-q", "-f", "qcow2", image]);
        world.assert_equal(("raw", "a.raw"), ("qcow2", image));
    }
    world.ok(["restore", "web1", "--to", "out/", "--format", "qcow2"]);
    world.assert_equal(("raw", "a.raw"), ("qcow2", "out/vda.qcow2"));
}

#[test]
fn a_block_device_is_overwritten_with_force_alone() {
    let bytes = disk(44, 4 * MIB);
    let world = backed_up(&bytes);
    fs::write(world.path("medium"), vec![0xee; bytes.len()]).expect("there is space");
    let attached = LoopDevice::attach(&world.path("medium"), &[]);
    let device = text(attached.path());
    let args = ["restore", "web1", "--disk", "vda", "--to", device];
    let refused = world.run(args);
    let forced = world.run(args.iter().chain(&["--force"]));
    drop(attached);
    refused.refused(1, "--force");
    assert_eq!(forced.code, 0, "{forced:?}");
    assert!(fs::read(world.path("medium")).expect("read") == bytes);
}

#[test]
fn a_device_that_is_too_small_is_refused_untouched() {
    let world = backed_up(&disk(45, 4 * MIB));
    let old = vec![0xee; 2 * MIB as usize];
    fs::write(world.path("medium"), &old).expect("there is space");
    let attached = LoopDevice::attach(&world.path("medium"), &[]);
    let device = text(attached.path());
    let ran = world.run([
        "restore", "web1", "--disk", "vda", "--to", device, "--force",
    ]);
    ran.refused(1, device);
    drop(attached);
    assert!(fs::read(world.path("medium")).expect("read") == old);
}

#[test]
fn places_that_cannot_be_are_named() {
    let world = backed_up(&disk(46, MIB));
    let to = |path: &str| world.run(["restore", "web1", "--disk", "vda", "--to", path]);
    to("no/such/folder/a.raw").refused(1, "no/such/folder");
    to("/dev/null").refused(1, "/dev/null");
    let left: Vec<_> = fs::read_dir(world.path(""))
        .expect("listed")
        .flatten()
        .collect();
    let stray = left
        .iter()
        .find(|entry| text(&entry.path()).contains("partial"));
    assert!(stray.is_none(), "{left:?}");
}
