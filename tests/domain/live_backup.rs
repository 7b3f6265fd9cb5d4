//! Backups of running domains: by their changes where these are proven, whole where they are not,
//! and the bytes of one moment in any case.

use std::path::Path;

use serde_json::Value;

use crate::lab::{Domain, Lab};
use crate::world::{MIB, World};

/// Backs a domain up, and returns the JSON document.
pub fn backup(lab: &Lab, world: &World, args: &[&str]) -> Value {
    let ran = lab.cairn(world, [&["backup", "--json"], args].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.document()
}

/// Returns how the first disk was read, and why not by its changes.
pub fn mode(document: &Value) -> (&str, &str) {
    let disk = &document["disks"][0];
    let text = |value: &'static str| disk[value].as_str().unwrap_or_default();
    (text("mode"), text("doubt"))
}

/// Stops a domain, and compares its disk with what the newest snapshot gives.
pub fn compare(world: &World, domain: &Domain<'_>, disk: &str) {
    domain.destroy();
    let restored = world.path("restored.raw");
    let to = restored.to_str().expect("paths of tests are UTF-8");
    world.ok([
        "restore",
        domain.name(),
        "--disk",
        disk,
        "--to",
        to,
        "--force",
    ]);
    same(world, &restored, &domain.image(disk));
    domain.start();
}

fn same(world: &World, raw: &Path, qcow2: &Path) {
    let path = |path: &Path| path.to_str().expect("paths of tests are UTF-8").to_owned();
    let args = [
        "compare",
        "-f",
        "raw",
        "-F",
        "qcow2",
        &path(raw),
        &path(qcow2),
    ];
    let said = world.tool("qemu-img", &args);
    assert!(said.contains("identical"), "{said}");
}

#[test]
fn only_changes_are_read_and_the_bytes_are_right() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("changes", &[("vda", 256 * MIB), ("vdb", 64 * MIB)]);
    domain.write("vda", 4 * MIB, MIB, 0x11);
    let first = backup(lab, &world, &["changes"]);
    assert_eq!(mode(&first).0, "full");
    domain.write("vda", 5 * MIB, 64 * 1024, 0x22);
    domain.write("vdb", MIB, 64 * 1024, 0x33);
    let second = backup(lab, &world, &["changes"]);
    assert_eq!(second["parent"], first["snapshot"]);
    for disk in 0..2 {
        assert_eq!(second["disks"][disk]["mode"], "incremental");
        assert_eq!(second["disks"][disk]["dirty_bytes"], 64 * 1024);
    }
    let shown = world.json(["show", "changes"]);
    assert_eq!(
        shown["domain"]["checkpoint"],
        second["domain"]["checkpoint"]
    );
    assert!(
        world
            .ok(["show", "changes"])
            .contains("as after a power cut")
    );
    // A whole backup of the same bytes under another name has the same recipes.
    domain.destroy();
    for (place, target) in ["vda", "vdb"].into_iter().enumerate() {
        let image = domain.image(target);
        let disk = format!("{target}={}", image.display());
        let whole = world.json(["backup", "whole", "--disk", &disk]);
        assert_eq!(
            whole["disks"][0]["recipe"],
            second["disks"][place]["recipe"]
        );
    }
    domain.start();
    compare(&world, &domain, "vda");
    let names = domain.virsh(&["checkpoint-list", domain.name(), "--name"]);
    assert_eq!(
        names
            .lines()
            .filter(|name| name.starts_with("cairn-"))
            .count(),
        2
    );
    world.ok(["verify"]);
}

#[test]
fn a_killed_qemu_costs_a_scan_and_the_next_is_by_changes_again() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("killed", &[("vda", 128 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    backup(lab, &world, &["killed"]);
    domain.write("vda", 2 * MIB, 64 * 1024, 0x22);
    domain.kill();
    domain.start();
    let scanned = backup(lab, &world, &["killed"]);
    assert_eq!(mode(&scanned).0, "scan");
    assert!(mode(&scanned).1.contains("missing or broken"), "{scanned}");
    domain.write("vda", 3 * MIB, 64 * 1024, 0x33);
    let next = backup(lab, &world, &["killed", "--incremental"]);
    assert_eq!(mode(&next), ("incremental", ""));
    compare(&world, &domain, "vda");
}

#[test]
fn lost_metadata_is_defined_anew_and_a_grown_disk_is_read_by_its_changes() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("lost", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    let first = backup(lab, &world, &["lost"]);
    let name = first["domain"]["checkpoint"].as_str().expect("it made one");
    domain.virsh(&["checkpoint-delete", "lost", name, "--metadata"]);
    domain.write("vda", 8 * MIB, 64 * 1024, 0x22);
    let second = backup(lab, &world, &["lost"]);
    assert_eq!(mode(&second), ("incremental", ""));
    domain.virsh(&["blockresize", "lost", "vda", "100M"]);
    domain.write("vda", 80 * MIB, 64 * 1024, 0x33);
    let third = backup(lab, &world, &["lost"]);
    assert_eq!(mode(&third), ("incremental", ""));
    assert_eq!(third["disks"][0]["size"], 100 * MIB);
    compare(&world, &domain, "vda");
}

#[test]
fn another_image_in_its_place_is_read_whole() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("swapped", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    backup(lab, &world, &["swapped"]);
    domain.destroy();
    let image = domain.image("vda");
    let other = world.path("other.qcow2");
    std::fs::copy(&image, &other).expect("the image can be copied");
    // Another file under the same name, as a restore by other means would leave.
    std::fs::remove_file(&image).expect("the image can be removed");
    std::fs::hard_link(&other, &image).expect("both lie in the folder for temporary files");
    domain.start();
    domain.write("vda", 2 * MIB, 64 * 1024, 0x22);
    let document = backup(lab, &world, &["swapped"]);
    assert_eq!(
        mode(&document),
        ("scan", "the image was replaced by another file")
    );
    compare(&world, &domain, "vda");
}

#[test]
fn two_repositories_and_another_tool_share_a_domain() {
    let lab = Lab::shared();
    let (one, two) = (World::new(), World::new());
    let domain = lab.light("shared", &[("vda", 64 * MIB)]);
    domain.virsh(&["checkpoint-create-as", "shared", "theirs"]);
    backup(lab, &one, &["shared"]);
    backup(lab, &two, &["shared"]);
    domain.write("vda", MIB, MIB, 0x11);
    for world in [&one, &two] {
        let document = backup(lab, world, &["shared", "--audit", "100"]);
        assert_eq!(mode(&document).0, "incremental");
        assert_eq!(document["disks"][0]["dirty_bytes"], MIB);
    }
    let names = domain.virsh(&["checkpoint-list", "shared", "--name"]);
    assert!(names.lines().any(|name| name.trim() == "theirs"), "{names}");
}

#[test]
fn a_migrated_domain_is_read_by_its_changes() {
    let (lab, world) = (Lab::start(), World::new());
    let other = Lab::start();
    let domain = lab.light("moved", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    backup(&lab, &world, &["moved"]);
    domain.write("vda", 2 * MIB, 64 * 1024, 0x22);
    let uri = other.uri().replace("qemu://", "qemu+unix://");
    let flags = ["--live", "--persistent", "--undefinesource", "--unsafe"];
    domain.virsh(&[&["migrate"], &flags[..], &["moved", &uri]].concat());
    let document = backup(&other, &world, &["moved"]);
    assert_eq!(mode(&document), ("incremental", ""));
    assert_eq!(document["disks"][0]["dirty_bytes"], 64 * 1024);
    other.virsh(&["destroy", "moved"]);
    let restored = world.path("restored.raw");
    world.ok([
        "restore",
        "moved",
        "--to",
        restored.to_str().expect("a test's path"),
    ]);
    same(&world, &restored, &domain.image("vda"));
    other.virsh(&["undefine", "moved", "--checkpoints-metadata"]);
}
