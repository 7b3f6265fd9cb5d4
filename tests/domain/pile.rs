//! Bitmaps do not pile up in images, whatever libvirt forgets of them.

use crate::lab::{Domain, Lab};
use crate::live_backup::{backup, compare};
use crate::world::{MIB, World, text};

fn own_bitmaps(world: &World, domain: &Domain<'_>) -> usize {
    let image = domain.image("vda");
    let said = world.tool("qemu-img", &["info", "-U", text(&image)]);
    said.matches("name: cairn-").count()
}

#[test]
fn an_undefined_domain_leaves_two_bitmaps_at_most() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("undefined", &[("vda", 64 * MIB)]);
    for round in 0..8_u64 {
        domain.write("vda", round * MIB, MIB, 0x11);
        // Each way of two rounds, so that each finds what the other has left.
        if round % 4 < 2 {
            domain.destroy();
        }
        backup(lab, &world, &["undefined"]);
        if round % 4 >= 2 {
            domain.destroy();
        }
        let bitmaps = own_bitmaps(&world, &domain);
        assert!((1..=2).contains(&bitmaps), "{bitmaps} after round {round}");
        let xml = domain.virsh(&["dumpxml", "--inactive", "undefined"]);
        domain.virsh(&["undefine", "--checkpoints-metadata", "undefined"]);
        let path = domain.folder().join("again.xml");
        std::fs::write(&path, xml).expect("the folder is there");
        domain.virsh(&["define", text(&path)]);
        domain.start();
    }
    compare(&world, &domain, "vda");
}

#[test]
fn a_transient_domain_leaves_two_bitmaps_at_most() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("transient", &[("vda", 64 * MIB)]);
    let xml = domain.virsh(&["dumpxml", "--inactive", "transient"]);
    let path = domain.folder().join("again.xml");
    std::fs::write(&path, xml).expect("the folder is there");
    domain.destroy();
    domain.virsh(&["undefine", "transient"]);
    for round in 0..5_u64 {
        domain.virsh(&["create", text(&path)]);
        domain.write("vda", round * MIB, MIB, 0x22);
        let done = backup(lab, &world, &["transient"]);
        let mode = if round == 0 { "full" } else { "incremental" };
        assert_eq!(done["disks"][0]["mode"], mode, "round {round}");
        domain.destroy();
        let bitmaps = own_bitmaps(&world, &domain);
        assert!((1..=2).contains(&bitmaps), "{bitmaps} after round {round}");
    }
    // As the lab removes it.
    domain.virsh(&["define", text(&path)]);
}
