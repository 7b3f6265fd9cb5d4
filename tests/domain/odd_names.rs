//! Domains whose names no VM of a repository can have.

use crate::lab::{Domain, Lab};
use crate::world::{MIB, Ran, World, text};

/// Defines a domain under another name. libvirt renames none that has checkpoints.
fn rename(domain: &Domain<'_>, from: &str, to: &str) {
    let xml = domain.virsh(&["dumpxml", "--inactive", from]);
    let tag = |name: &str| format!("<name>{name}</name>");
    let xml = xml.replace(&tag(from), &tag(to));
    domain.virsh(&["undefine", "--checkpoints-metadata", from]);
    let path = domain.folder().join("renamed.xml");
    std::fs::write(&path, xml).expect("the folder is there");
    domain.virsh(&["define", text(&path)]);
}

/// Does something while the domain of a lab has another name.
fn under_name(domain: &Domain<'_>, name: &str, during: impl FnOnce()) {
    rename(domain, domain.name(), name);
    during();
    rename(domain, name, domain.name());
}

fn vms(world: &World) -> Vec<String> {
    let listed = world.json(["snapshots"]);
    let listed = listed.as_array().expect("it lists them");
    let mut vms: Vec<String> = listed
        .iter()
        .map(|it| it["vm"].as_str().unwrap_or_default().to_owned())
        .collect();
    vms.sort();
    vms
}

#[test]
fn every_domain_can_be_backed_up_and_restored() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("odd", &[("vda", 32 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    domain.destroy();
    under_name(&domain, "odd@dc1:a", || {
        let all = ["backup", "--match", "odd@*", "--json"];
        let first = lab.cairn(&world, all);
        assert_eq!(first.code, 0, "{first:?}");
        assert_eq!(first.document()["backups"][0]["vm"], "odd%40dc1%3Aa");
        let says = |ran: &Ran| ran.err.contains("VM `odd%40dc1%3Aa` from now on");
        assert!(says(&first), "{first:?}");
        let again = lab.cairn(&world, all);
        assert!(again.code == 0 && !says(&again), "{again:?}");
        let one = lab.cairn(&world, ["backup", "odd@dc1:a", "--as", "odd-a"]);
        assert_eq!(one.code, 0, "{one:?}");
        let refused = lab.cairn(&world, ["backup", "odd@dc1:a", "--as", "odd@a"]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert_eq!(vms(&world), ["odd%40dc1%3Aa", "odd%40dc1%3Aa", "odd-a"]);
        let image = domain.image("vda");
        for (vm, byte) in [("odd%40dc1%3Aa", 0x22), ("odd-a", 0x33)] {
            let write = format!("write -P {byte} 1M 64k");
            world.write(text(&image), &[&write]);
            let back = lab.cairn(&world, ["restore", vm, "--in-place", "--yes"]);
            assert_eq!(back.code, 0, "{back:?}");
            let read = ["-f", "qcow2", "-c", "read -P 0x11 1M 1M", text(&image)];
            let read = world.tool("qemu-io", &read);
            assert!(!read.contains("verification failed"), "{read}");
        }
        // Under a name of the same kind, beside the original.
        let dir = domain.folder().join("beside");
        let args = [
            "restore",
            "odd-a",
            "--define",
            "odd@dc2",
            "--new-ids",
            "--dir",
        ];
        let beside = lab.cairn(&world, [&args[..], &[text(&dir)]].concat());
        assert_eq!(beside.code, 0, "{beside:?}");
        assert!(dir.join("odd%40dc2-vda.qcow2").exists(), "{beside:?}");
        domain.virsh(&["undefine", "odd@dc2"]);
    });
}
