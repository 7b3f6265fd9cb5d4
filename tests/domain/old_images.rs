//! Images that can keep no bitmaps: they are read whole, and the others by their changes.

use crate::lab::{Domain, Lab};
use crate::live_backup::{backup, compare};
use crate::world::{MIB, World, text};

/// Makes a disk's image one of version 2 anew. The domain must be off.
fn make_old(world: &World, domain: &Domain<'_>, disk: &str) {
    let image = domain.image(disk);
    world.tool(
        "qemu-img",
        &["amend", "-f", "qcow2", "-o", "compat=0.10", text(&image)],
    );
}

fn modes(document: &serde_json::Value) -> [&str; 2] {
    [0, 1].map(|disk| document["disks"][disk]["mode"].as_str().unwrap_or_default())
}

#[test]
fn a_qcow2_of_version_2_is_read_whole_and_the_others_by_their_changes() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("old", &[("vda", 64 * MIB), ("vdb", 32 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    domain.write("vdb", MIB, MIB, 0x22);
    domain.destroy();
    make_old(&world, &domain, "vdb");
    for runs in [false, true] {
        if runs {
            domain.start();
            domain.write("vdb", 4 * MIB, 64 * 1024, 0x33);
        }
        let ran = lab.cairn(&world, ["backup", "old", "--json"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let hint = format!("-o compat=1.1 {}", domain.image("vdb").display());
        assert!(
            ran.err.contains("disk vdb is read whole") && ran.err.contains(&hint),
            "{ran:?}"
        );
        assert!(!ran.err.contains("disk vda is read whole"), "{ran:?}");
        let again = backup(lab, &world, &["old"]);
        assert_eq!(modes(&again), ["incremental", "scan"], "runs: {runs}");
        let held = backup(lab, &world, &["old", "--mode", "snapshot"]);
        assert_eq!(modes(&held), ["incremental", "scan"], "runs: {runs}");
    }
    compare(&world, &domain, "vda");
    compare(&world, &domain, "vdb");
    // As the words say.
    domain.destroy();
    let image = domain.image("vdb");
    world.tool(
        "qemu-img",
        &["amend", "-f", "qcow2", "-o", "compat=1.1", text(&image)],
    );
    backup(lab, &world, &["old"]);
    let by_changes = backup(lab, &world, &["old"]);
    assert_eq!(modes(&by_changes), ["incremental", "incremental"]);
}
