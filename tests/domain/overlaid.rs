//! Domains on overlays: what was written before an external snapshot is marked in the image below.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Domain, Lab};
use crate::live_backup::{backup, mode};
use crate::world::{MIB, World, text};

/// Lets the guest write to an overlay from now on, and returns that.
fn overlay(domain: &Domain<'_>, name: &str) -> PathBuf {
    let path = domain.folder().join(format!("{name}.qcow2"));
    let disk = format!("vda,file={}", text(&path));
    let snapshot = [
        "snapshot-create-as",
        domain.name(),
        "--disk-only",
        "--no-metadata",
    ];
    domain.virsh(&[&snapshot[..], &["--diskspec", &disk]].concat());
    path
}

/// Requires that a backup has the bytes of an image whose domain is off.
#[track_caller]
fn same(world: &World, taken: &Value, image: &Path) {
    let disk = format!("vda={},format=qcow2,backing=allow", text(image));
    let whole = world.json(["backup", "whole", "--disk", &disk]);
    assert_eq!(
        whole["disks"][0]["recipe"], taken["disks"][0]["recipe"],
        "{taken}"
    );
}

#[test]
fn what_was_written_before_the_overlay_is_read_of_a_domain_that_is_off() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("overlaid-off", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, 24 * MIB, 0x11);
    backup(lab, &world, &["overlaid-off"]);
    domain.write("vda", 8 * MIB, MIB, 0x22);
    overlay(&domain, "one");
    domain.write("vda", 12 * MIB, MIB, 0x33);
    let top = overlay(&domain, "two");
    domain.write("vda", 16 * MIB, MIB, 0x44);
    domain.destroy();
    let off = backup(lab, &world, &["overlaid-off"]);
    assert_eq!(mode(&off), ("incremental", ""), "{off}");
    assert_eq!(off["disks"][0]["dirty_bytes"], 3 * MIB);
    same(&world, &off, &top);
    domain.start();
    domain.write("vda", 20 * MIB, MIB, 0x55);
    let live = backup(lab, &world, &["overlaid-off"]);
    assert_eq!(mode(&live), ("incremental", ""), "{live}");
    assert_eq!(live["disks"][0]["dirty_bytes"], MIB);
    domain.destroy();
    same(&world, &live, &top);
}

#[test]
fn what_was_written_before_the_overlay_is_read_below_another() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("overlaid-mode", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, 24 * MIB, 0x11);
    backup(lab, &world, &["overlaid-mode"]);
    domain.write("vda", 8 * MIB, MIB, 0x22);
    let top = overlay(&domain, "one");
    domain.write("vda", 16 * MIB, MIB, 0x33);
    let taken = backup(lab, &world, &["overlaid-mode", "--mode", "snapshot"]);
    assert_eq!(mode(&taken), ("incremental", ""), "{taken}");
    assert_eq!(taken["disks"][0]["dirty_bytes"], 2 * MIB);
    domain.destroy();
    same(&world, &taken, &top);
}

#[test]
fn what_was_committed_is_read() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("overlaid-commit", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, 24 * MIB, 0x11);
    backup(lab, &world, &["overlaid-commit"]);
    domain.write("vda", 8 * MIB, MIB, 0x22);
    overlay(&domain, "one");
    domain.write("vda", 12 * MIB, MIB, 0x33);
    let commit = [
        "blockcommit",
        domain.name(),
        "vda",
        "--active",
        "--pivot",
        "--wait",
    ];
    domain.virsh(&commit);
    domain.write("vda", 16 * MIB, MIB, 0x44);
    domain.destroy();
    let off = backup(lab, &world, &["overlaid-commit"]);
    same(&world, &off, &domain.image("vda"));
    // What is pulled into the overlay leaves the image behind that the bitmap was made on.
    domain.start();
    domain.write("vda", 18 * MIB, MIB, 0x55);
    let top = overlay(&domain, "two");
    domain.virsh(&["blockpull", domain.name(), "vda", "--wait"]);
    domain.write("vda", 20 * MIB, MIB, 0x66);
    domain.destroy();
    let pulled = backup(lab, &world, &["overlaid-commit"]);
    same(&world, &pulled, &top);
}

#[test]
fn a_bitmap_that_is_gone_below_costs_a_scan() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("overlaid-gone", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, 24 * MIB, 0x11);
    let first = backup(lab, &world, &["overlaid-gone"]);
    domain.write("vda", 8 * MIB, MIB, 0x22);
    let top = overlay(&domain, "one");
    domain.write("vda", 16 * MIB, MIB, 0x33);
    domain.destroy();
    let name = first["domain"]["checkpoint"].as_str().expect("it made one");
    let base = domain.image("vda");
    world.tool("qemu-img", &["bitmap", "--remove", text(&base), name]);
    domain.start();
    let scanned = backup(lab, &world, &["overlaid-gone"]);
    assert_eq!(mode(&scanned).0, "scan", "{scanned}");
    assert!(mode(&scanned).1.contains(name), "{scanned}");
    domain.destroy();
    same(&world, &scanned, &top);
}
