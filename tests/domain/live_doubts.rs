//! What happens to a domain between two backups, or behind the back of one: the bytes are right in
//! any case, and nothing is built on a bitmap that counts something else.

use std::process::Stdio;

use crate::lab::{Domain, Lab};
use crate::live_backup::{backup, compare, mode};
use crate::live_interrupt::{count, has_job, scratch_files};
use crate::waiting::wait_for;
use crate::world::{MIB, Ran, World, text};

/// A domain with a backup, and something to read since.
fn written<'l>(lab: &'l Lab, world: &World, name: &str) -> Domain<'l> {
    let domain = lab.light(name, &[("vda", 64 * MIB), ("vdb", 64 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    domain.write("vdb", 2 * MIB, MIB, 0x22);
    backup(lab, world, &[name]);
    domain.write("vda", 8 * MIB, 64 * 1024, 0x33);
    domain.write("vdb", 9 * MIB, 64 * 1024, 0x44);
    domain
}

#[test]
fn a_daemon_that_is_killed_midway_does_not_matter() {
    let (lab, world) = (Lab::start(), World::new());
    let domain = lab.light("orphaned", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, 16 * MIB, 0x11);
    let mut command = lab.command(&world, ["backup", "orphaned", "--json", "--limit", "2MiB"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("cairn can be run");
    // A session of the repository: the job has begun, and its disks are read.
    wait_for("the reading", || !world.stored("locks").is_empty());
    assert!(has_job(&lab, &domain));
    lab.kill_libvirtd();
    // sleeps: so that the backup is without it for a while; however long, it does not matter.
    std::thread::sleep(std::time::Duration::from_secs(2));
    lab.start_libvirtd();
    let ran: Ran = child
        .wait_with_output()
        .expect("it can be waited for")
        .into();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.document()["domain"]["method"], "pull");
    assert!(!has_job(&lab, &domain));
    assert_eq!(scratch_files(&domain), 0);
    domain.write("vda", 32 * MIB, 64 * 1024, 0x22);
    let next = backup(&lab, &world, &["orphaned"]);
    assert_eq!(mode(&next), ("incremental", ""));
    assert_eq!(next["disks"][0]["dirty_bytes"], 64 * 1024);
    compare(&world, &domain, "vda");
}

#[test]
fn disks_that_swapped_places_are_read_whole() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = written(lab, &world, "exchanged");
    domain.destroy();
    domain.redefine(|xml| {
        let xml = xml.replace("vda.qcow2", "other.qcow2");
        let xml = xml.replace("vdb.qcow2", "vda.qcow2");
        xml.replace("other.qcow2", "vdb.qcow2")
    });
    domain.start();
    let document = backup(lab, &world, &["exchanged"]);
    for disk in 0..2 {
        assert_eq!(document["disks"][disk]["mode"], "scan", "{document}");
        let doubt = document["disks"][disk]["doubt"].to_string();
        assert!(doubt.contains("the disk was moved from"), "{document}");
    }
    domain.destroy();
    for (target, image) in [("vda", "vdb"), ("vdb", "vda")] {
        let restored = world.path(target);
        let to = text(&restored);
        world.ok(["restore", "exchanged", "--disk", target, "--to", to]);
        let image = domain.image(image);
        world.assert_equal(("raw", to), ("qcow2", text(&image)));
    }
}

#[test]
fn the_tail_of_a_disk_that_was_shrunk_and_grown_back_is_read_again() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("shrunk", &[("vda", 64 * MIB)]);
    domain.write("vda", 0, 64 * MIB, 0x11);
    backup(lab, &world, &["shrunk"]);
    let image = domain.image("vda");
    for size in [64 * MIB - 64 * 1024, 64 * MIB] {
        let size = format!("{size}B");
        domain.virsh(&["blockresize", domain.name(), text(&image), &size]);
    }
    let document = backup(lab, &world, &["shrunk"]);
    let (mode, doubt) = mode(&document);
    assert_eq!(mode, "scan", "{document}");
    assert!(doubt.contains("differs from the parent"), "{document}");
    compare(&world, &domain, "vda");
}

#[test]
fn a_new_disk_of_a_known_domain_is_a_full_one() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("grown", &[("vda", 32 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    backup(lab, &world, &["grown"]);
    domain.destroy();
    let new = domain.image("vdb");
    world.tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&new), "16M"],
    );
    domain.add_disk("vdb", &new);
    domain.start();
    domain.write("vdb", MIB, MIB, 0x22);
    domain.write("vda", 4 * MIB, 64 * 1024, 0x33);
    let document = backup(lab, &world, &["grown"]);
    assert_eq!(mode(&document), ("incremental", ""));
    assert_eq!(document["disks"][1]["mode"], "full", "{document}");
    assert_eq!(document["disks"][1]["doubt"], serde_json::Value::Null);
    domain.write("vdb", 4 * MIB, 64 * 1024, 0x44);
    let next = backup(lab, &world, &["grown"]);
    assert_eq!(next["disks"][1]["mode"], "incremental", "{next}");
    compare(&world, &domain, "vdb");
    // Of plain images it is the same.
    domain.destroy();
    let disk = |target| format!("--disk={target}={}", text(&domain.image(target)));
    world.json(["backup", "plain", &disk("vda")]);
    let plain = world.json(["backup", "plain", &disk("vda"), &disk("vdb")]);
    assert_eq!(plain["disks"][0]["mode"], "scan", "{plain}");
    assert_eq!(plain["disks"][1]["mode"], "full", "{plain}");
}

#[test]
fn a_parent_that_was_forgotten_is_not_counted_from() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = written(lab, &world, "forgotten");
    let first = world.json(["show", "forgotten"])["id"].clone();
    let second = backup(lab, &world, &["forgotten"]);
    assert_eq!(mode(&second), ("incremental", ""));
    let forget = second["snapshot"].as_str().expect("it has an id");
    world.ok(["forget", forget]);
    domain.write("vda", 12 * MIB, 64 * 1024, 0x55);
    let third = backup(lab, &world, &["forgotten"]);
    assert_eq!(third["parent"], first, "{third}");
    assert_eq!(mode(&third), ("incremental", ""));
    // What the forgotten one had read is read once more.
    assert_eq!(third["disks"][0]["dirty_bytes"], 128 * 1024);
    compare(&world, &domain, "vda");
}

#[test]
fn a_transient_domain_is_read_by_its_changes_after_it_was_created_anew() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("transient", &[("vda", 64 * MIB)]);
    let xml = domain.folder().join("created.xml");
    let definition = domain.virsh(&["dumpxml", "--inactive", "transient"]);
    std::fs::write(&xml, definition).expect("the folder is there");
    domain.virsh(&["undefine", "transient"]);
    domain.write("vda", MIB, MIB, 0x11);
    let first = backup(lab, &world, &["transient"]);
    assert_eq!(mode(&first).0, "full");
    domain.write("vda", 8 * MIB, 64 * 1024, 0x22);
    domain.destroy();
    let gone = lab.cairn(&world, ["backup", "transient"]);
    gone.refused(1, "transient");
    domain.virsh(&["create", text(&xml)]);
    domain.write("vda", 16 * MIB, 64 * 1024, 0x33);
    let second = backup(lab, &world, &["transient"]);
    assert_eq!(mode(&second), ("incremental", ""));
    assert_eq!(second["disks"][0]["dirty_bytes"], 128 * 1024);
    domain.destroy();
    let restored = world.path("restored.raw");
    world.ok(["restore", "transient", "--to", text(&restored)]);
    let image = domain.image("vda");
    world.assert_equal(("raw", text(&restored)), ("qcow2", text(&image)));
}

#[test]
fn a_libvirt_snapshot_of_the_users_own_is_followed() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = written(lab, &world, "external");
    let snapshot = ["snapshot-create-as", "external", "s1", "--disk-only"];
    domain.virsh(&[&snapshot[..], &["--no-metadata"]].concat());
    domain.write("vda", 16 * MIB, 64 * 1024, 0x55);
    let above = backup(lab, &world, &["external"]);
    assert_eq!(mode(&above), ("incremental", ""));
    assert_eq!(above["disks"][0]["dirty_bytes"], 128 * 1024);
    domain.write("vda", 20 * MIB, 64 * 1024, 0x66);
    for disk in ["vda", "vdb"] {
        domain.virsh(&[
            "blockcommit",
            "external",
            disk,
            "--active",
            "--pivot",
            "--wait",
        ]);
    }
    domain.write("vda", 24 * MIB, 64 * 1024, 0x77);
    let below = backup(lab, &world, &["external"]);
    assert_ne!(mode(&below).0, "full");
    compare(&world, &domain, "vda");
    domain.write("vda", 28 * MIB, 64 * 1024, 0x12);
    let next = backup(lab, &world, &["external"]);
    assert_eq!(mode(&next), ("incremental", ""));
    assert_eq!(next["disks"][0]["dirty_bytes"], 64 * 1024);
    compare(&world, &domain, "vdb");
    assert_eq!(count(&world), 4);
}
