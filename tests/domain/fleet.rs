//! Backups of many domains, and of domains whose disks cannot all be read.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Domain, Lab};
use crate::live_backup::backup;
use crate::live_interrupt::count;
use crate::waiting::wait_for;
use crate::world::{MIB, World, text};

fn find<'d>(document: &'d Value, vm: &str) -> &'d Value {
    let backups = document["backups"].as_array().expect("it lists them");
    let found = backups.iter().find(|backup| backup["vm"] == vm);
    found.unwrap_or_else(|| panic!("no {vm} in {document}"))
}

fn left_out<'d>(document: &'d Value, list: &str, target: &str) -> &'d str {
    let out = document["domain"][list].as_array().expect("it is a list");
    let found = out.iter().find(|out| out["target"] == target);
    let found = found.unwrap_or_else(|| panic!("no {target} in {list}: {document}"));
    found["reason"].as_str().unwrap_or_default()
}

#[test]
fn a_domain_that_fails_does_not_stop_the_others() {
    let (lab, world) = (Lab::shared(), World::new());
    let domains = ["a", "b", "c"].map(|letter| {
        let domain = lab.light(&format!("fleet-{letter}"), &[("vda", 32 * MIB)]);
        domain.write("vda", MIB, MIB, 0x11);
        domain
    });
    // Another program's job is at work on one.
    let xml = lab.path("fleet.xml");
    let socket = lab.path("fleet.sock");
    let job = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/></domainbackup>",
        text(&socket)
    );
    std::fs::write(&xml, job).expect("the lab's folder is there");
    lab.virsh(&["backup-begin", "fleet-b", text(&xml)]);
    let fleet = ["backup", "--match", "fleet-*", "--jobs", "2"];
    let ran = lab.cairn(&world, [&fleet[..], &["--json"]].concat());
    assert_eq!(ran.code, 3, "{ran:?}");
    let document = ran.document();
    assert_eq!(
        (&document["done"], &document["failed"]),
        (&2.into(), &1.into())
    );
    assert_eq!(find(&document, "fleet-a")["outcome"], "done");
    assert_eq!(find(&document, "fleet-c")["outcome"], "done");
    let failed = find(&document, "fleet-b");
    assert_eq!(failed["outcome"], "failed");
    let error = failed["error"].as_str().unwrap_or_default();
    assert!(error.contains("has a job at work"), "{document}");
    assert!(ran.err.contains("fleet-b: "), "{ran:?}");
    assert_eq!(count(&world), 2);
    let summary = lab.cairn(&world, fleet);
    assert_eq!(summary.code, 3, "{summary:?}");
    let named = summary.out.lines().any(|line| line.contains("fleet-b"));
    assert!(named, "{summary:?}");
    lab.virsh(&["domjobabort", "fleet-b"]);
    let all = lab.cairn(&world, fleet);
    assert_eq!((all.code, count(&world)), (0, 7), "{all:?}");
    // Where none is backed up, nothing was published.
    lab.virsh(&["backup-begin", "fleet-b", text(&xml)]);
    let none = lab.cairn(&world, ["backup", "--match", "fleet-b"]);
    assert_eq!(none.code, 1, "{none:?}");
    lab.virsh(&["domjobabort", "fleet-b"]);
    drop(domains);
}

/// A server of a disk that QEMU hands its guest's requests to, and does not see.
struct Beside(std::process::Child);

impl Beside {
    fn start(image: &Path, socket: &Path) -> Self {
        let mut command = Command::new("qemu-storage-daemon");
        let file = format!("driver=file,node-name=file,filename={}", text(image));
        let export = format!(
            "type=vhost-user-blk,id=e,node-name=file,writable=on,addr.type=unix,addr.path={}",
            text(socket)
        );
        let child = command
            .args(["--blockdev", &file, "--export", &export])
            .spawn();
        let child = child.expect("qemu-storage-daemon can be run");
        wait_for("the socket", || socket.exists());
        Self(child)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_running_domain_is_read_beside_a_disk_that_qemu_does_not_see() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("vhost", &[("vda", 32 * MIB)]);
    domain.destroy();
    let image = domain.folder().join("vdb.raw");
    let file = std::fs::File::create(&image).expect("the folder is there");
    file.set_len(8 * MIB).expect("it can grow");
    let socket = domain.folder().join("vdb.sock");
    let beside = Beside::start(&image, &socket);
    share_memory(&domain);
    let device = format!(
        "<disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/>\
         <source type='unix' path='{}'/><target dev='vdb' bus='virtio'/></disk>",
        text(&socket)
    );
    domain.add_device(&device);
    domain.start();
    domain.write("vda", MIB, MIB, 0x11);
    for mode in ["full", "incremental"] {
        let ran = lab.cairn(&world, ["backup", "vhost", "--json"]);
        assert_eq!(ran.code, 3, "{ran:?}");
        let document = ran.document();
        let reason = left_out(&document, "unreadable", "vdb");
        assert!(reason.contains("vhostuser"), "{document}");
        assert_eq!(document["disks"].as_array().map(Vec::len), Some(1));
        assert_eq!(document["disks"][0]["mode"], mode);
        domain.write("vda", 4 * MIB, 64 * 1024, 0x22);
    }
    // Who leaves it out on purpose has no problem.
    let excluded = lab.cairn(&world, ["backup", "vhost", "--exclude", "vdb"]);
    assert_eq!(excluded.code, 0, "{excluded:?}");
    domain.destroy();
    drop(beside);
}

/// Lets other processes see a domain's memory.
fn share_memory(domain: &Domain<'_>) {
    domain.redefine(|xml| {
        let shared = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";
        xml.replacen("<vcpu", &format!("{shared}<vcpu"), 1)
    });
}

#[test]
fn what_a_job_cannot_read_is_named_and_a_raw_disk_is_read_beside() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("mixed", &[("vda", 32 * MIB)]);
    domain.destroy();
    let raw = domain.folder().join("vdb.raw");
    let file = std::fs::File::create(&raw).expect("the folder is there");
    file.set_len(16 * MIB).expect("it can grow");
    let device = |body: &str| domain.add_device(body);
    device("<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>");
    device(&format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
         <source file='{}'/><target dev='vdb' bus='virtio'/></disk>",
        text(&raw)
    ));
    domain.start();
    domain.write("vda", MIB, MIB, 0x11);
    domain.write("vdb", MIB, MIB, 0x22);
    let first = backup(lab, &world, &["mixed"]);
    assert_eq!(left_out(&first, "left_out", "sda"), "a CD-ROM drive");
    domain.write("vda", 4 * MIB, 64 * 1024, 0x33);
    domain.write("vdb", 4 * MIB, 64 * 1024, 0x44);
    let second = backup(lab, &world, &["mixed"]);
    let disk = |number: usize| &second["disks"][number];
    assert_eq!(disk(0)["mode"], "incremental", "{second}");
    assert_eq!(disk(0)["dirty_bytes"], 64 * 1024);
    assert_eq!(disk(1)["mode"], "scan", "{second}");
    assert_eq!(disk(1)["doubt"], "raw images keep no bitmaps");
    domain.destroy();
    for (number, source) in [text(&domain.image("vda")), text(&raw)]
        .into_iter()
        .enumerate()
    {
        let whole = world.json(["backup", "whole", "--disk", &format!("vda={source}")]);
        assert_eq!(whole["disks"][0]["recipe"], disk(number)["recipe"]);
    }
    share_memory(&domain);
    // A domain with such disks can be defined here, but not started.
    device(
        "<disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/>\
         <source type='unix' path='/tmp/none.sock'/><target dev='vdc' bus='virtio'/></disk>",
    );
    device(
        "<disk type='nvme' device='disk'><driver name='qemu' type='raw'/>\
         <source type='pci' managed='yes' namespace='1' index='0'>\
         <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>\
         <target dev='vdd' bus='virtio'/></disk>",
    );
    let ran = lab.cairn(&world, ["backup", "mixed", "--json"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let document = ran.document();
    for (target, kind) in [("vdc", "vhostuser"), ("vdd", "nvme")] {
        let reason = left_out(&document, "unreadable", target);
        assert!(reason.contains(kind), "{document}");
        let said = format!("disk {target} is NOT in the snapshot");
        assert!(ran.err.contains(&said), "{ran:?}");
    }
    assert_eq!(document["disks"].as_array().map(Vec::len), Some(2));
}
