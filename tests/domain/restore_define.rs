//! `cairn restore --define`: a snapshot becomes a domain that boots.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::lab::{Domain, Lab};
use crate::snapshot;
use crate::waiting::wait_for;
use crate::world::{KIB, MIB, Ran, World, text};

/// A domain that a restore made; destroyed and undefined when this is dropped.
struct Restored<'l>(&'l Lab, &'static str);

impl Restored<'_> {
    fn xml(&self) -> String {
        self.0.virsh(&["dumpxml", "--inactive", self.1])
    }

    /// Waits until the guest's agent answers.
    fn wait_for_agent(&self) {
        let ping = ["qemu-agent-command", self.1, "{\"execute\":\"guest-ping\"}"];
        wait_for("the agent's answer", || self.0.try_virsh(&ping).code == 0);
    }

    fn destroy(&self) {
        self.0.virsh(&["destroy", self.1]);
    }
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        drop(self.0.try_virsh(&["destroy", self.1]));
        drop(self.0.try_virsh(&["undefine", self.1, "--nvram"]));
    }
}

fn restore(lab: &Lab, world: &World, args: &[&str]) -> Ran {
    lab.cairn(world, ["restore"].iter().chain(args).chain(&["--json"]))
}

/// A light domain with a pattern on it, and its snapshot.
fn light<'l>(lab: &'l Lab, world: &World, name: &str) -> (Domain<'l>, String) {
    let domain = lab.light(name, &[("vda", 16 * MIB), ("vdb", 8 * MIB)]);
    domain.write("vda", MIB, 64 * KIB, 0x11);
    domain.write("vdb", 2 * MIB, 64 * KIB, 0x22);
    let id = snapshot::take(lab, world, &domain);
    domain.write("vda", MIB, 64 * KIB, 0x99);
    (domain, id)
}

#[test]
fn a_guest_boots_from_its_snapshot_beside_the_running_original() {
    let lab = Lab::shared();
    let world = World::new();
    let guest = lab.guest("define-guest");
    assert_eq!(guest.exec("echo kept > /mnt/vda/file; sync").code, 0);
    let id = snapshot::take(lab, &world, &guest);
    assert_eq!(guest.exec("echo lost > /mnt/vda/file; sync").code, 0);
    let folder = lab.path("define-guest-copy");
    let args = [
        &id,
        "--define",
        "define-copy",
        "--new-ids",
        "--no-ip",
        "--start",
        "--dir",
    ];
    let ran = restore(lab, &world, &[&args[..], &[text(&folder)]].concat());
    let copy = Restored(lab, "define-copy");
    assert_eq!(ran.code, 0, "{ran:?}");
    let done = ran.document();
    assert_eq!(
        (&done["domain"], &done["started"]),
        (&"define-copy".into(), &true.into())
    );
    let uuid = lab.virsh(&["domuuid", "define-copy"]);
    assert_eq!(done["uuid"], uuid.trim());
    assert_ne!(uuid, lab.virsh(&["domuuid", guest.name()]));
    copy.wait_for_agent();
    // Its disks are whole once it is off; the guest has them mounted meanwhile.
    copy.destroy();
    let disk = folder.join("define-copy-vda.qcow2");
    assert_eq!(done["disks"][0]["path"], text(&disk));
    assert!(guest.exec("cat /mnt/vda/file").out.contains("lost"));
}

#[test]
fn disks_and_ids_come_back_once_the_original_is_gone() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, id) = light(lab, &world, "define-gone");
    let uuid = lab.virsh(&["domuuid", domain.name()]);
    let folder = lab.path("define-gone-back");
    let args = [&id, "--define", "define-back", "--dir", text(&folder)];
    let refused = restore(lab, &world, &args);
    refused.refused(1, "UUID");
    assert!(
        refused.err.contains("--new-ids") && !folder.exists(),
        "{refused:?}"
    );
    drop(domain);
    let rights = [
        "--owner", "nobody", "--group", "12345", "--mode", "0640", "--start",
    ];
    let ran = restore(
        lab,
        &world,
        &[&args[..], &rights[..3], &rights[3..6]].concat(),
    );
    let back = Restored(lab, "define-back");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(lab.virsh(&["domuuid", "define-back"]), uuid);
    let file = fs::metadata(folder.join("define-back-vda.qcow2")).expect("it is restored");
    assert_eq!(
        (file.gid(), file.permissions().mode() & 0o777),
        (12345, 0o640)
    );
    assert_ne!(file.uid(), 0);
    assert_eq!(
        byte_at(&folder.join("define-back-vda.qcow2"), &world, MIB),
        0x11
    );
    assert_eq!(
        byte_at(&folder.join("define-back-vdb.qcow2"), &world, 2 * MIB),
        0x22
    );
    refused_without_force(lab, &world, &args);
    let args = [&args[..], &["--force", "--start"]].concat();
    let ran = restore(lab, &world, &args);
    assert_eq!(ran.code, 0, "{ran:?}");
    let running = restore(lab, &world, &args);
    running.refused(1, "is not off");
    assert!(back.xml().contains("define-back-vda.qcow2"));
}

#[test]
fn a_domain_at_work_is_not_replaced() {
    let (lab, world) = (Lab::shared(), World::new());
    let (domain, id) = light(lab, &world, "define-busy");
    domain.destroy();
    let (reached, go) = (world.path("reached"), world.path("go"));
    let hook = format!(
        "--hook=before-job=touch {}; until [ -e {} ]; do sleep 0.05; done",
        text(&reached),
        text(&go)
    );
    let mut command = lab.command(&world, ["backup", "define-busy", &hook]);
    command.stdout(Stdio::null());
    let mut backup = command.spawn().expect("cairn can be run");
    wait_for("the hook", || reached.exists());
    let folder = lab.path("define-busy-back");
    let args = [
        &id,
        "--define",
        "define-busy",
        "--dir",
        text(&folder),
        "--force",
    ];
    let refused = restore(lab, &world, &args);
    refused.refused(11, "another cairn");
    assert!(!folder.exists());
    fs::write(&go, "").expect("a file can be written");
    let status = backup.wait().expect("it can be waited for");
    assert!(status.success(), "{status}");
    let ran = restore(lab, &world, &args);
    assert_eq!(ran.code, 0, "{ran:?}");
}

fn refused_without_force(lab: &Lab, world: &World, args: &[&str]) {
    let refused = restore(lab, world, args);
    refused.refused(1, "there is a domain define-back already");
    assert!(refused.err.contains("--force"), "{refused:?}");
}

#[test]
fn networks_are_left_out_or_have_no_link() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, id) = light(lab, &world, "define-net");
    let xml = world.path("nic.xml");
    let nic = "<interface type='user'><mac address='52:54:00:12:34:56'/></interface>";
    fs::write(&xml, nic).expect("a file can be written");
    lab.virsh(&["attach-device", domain.name(), text(&xml), "--config"]);
    drop(id);
    let id = snapshot::take(lab, &world, &domain);
    let folder = lab.path("define-net-copies");
    let define = |name: &'static str, how: &[&str]| {
        let args = [&id, "--define", name, "--new-ids", "--dir", text(&folder)];
        let ran = restore(lab, &world, &[&args[..], how].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        (Restored(lab, name), ran.document())
    };
    let (as_it_was, _) = define("define-net-1", &[]);
    let xml = as_it_was.xml();
    assert!(
        xml.contains("<interface") && !xml.contains("52:54:00:12:34:56"),
        "{xml}"
    );
    assert!(!xml.contains("<link"), "{xml}");
    let (no_ip, _) = define("define-net-2", &["--no-ip"]);
    assert!(no_ip.xml().contains("<link state='down'/>"));
    let (no_nic, done) = define("define-net-3", &["--no-nic"]);
    assert!(!no_nic.xml().contains("<interface"));
    let dropped = done["dropped"].as_array().expect("there is a list");
    let says = |word: &str| {
        dropped
            .iter()
            .any(|said| said.as_str().is_some_and(|s| s.contains(word)))
    };
    assert!(says("52:54:00:12:34:56"), "{done}");
}

#[test]
fn a_restore_that_fails_midway_leaves_no_disks() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, _) = light(lab, &world, "define-fails");
    domain.write("vdb", 0, 4 * MIB, 0x33);
    let id = snapshot::take(lab, &world, &domain);
    let folder = lab.path("define-fails-copy");
    let args = [
        "restore",
        &id,
        "--define",
        "x",
        "--new-ids",
        "--dir",
        text(&folder),
    ];
    // The first disk fits the limit, and the second does not.
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";
    let command = lab.command(&world, args);
    let mut shell = std::process::Command::new("bash");
    shell
        .args(["-c", limited, "bash"])
        .arg(command.get_program())
        .args(command.get_args());
    let environment = command
        .get_envs()
        .filter_map(|(key, value)| Some((key, value?)));
    shell.envs(environment).stdin(std::process::Stdio::null());
    Ran::of(&mut shell).refused(1, "vdb");
    let left = fs::read_dir(&folder).expect("the folder was made").count();
    assert_eq!(left, 0);
    assert_ne!(lab.try_virsh(&["domstate", "x"]).code, 0);
    let pool = restore(
        lab,
        &world,
        &[&id, "--define", "x", "--new-ids", "--pool", "no-such"],
    );
    pool.refused(1, "storage pool");
}

#[test]
fn what_is_no_domain_defines_none() {
    let lab = Lab::shared();
    let world = World::new();
    world.raw("plain.raw", &[7; 65536]);
    let done = world.backup("plain.raw");
    let plain = done["snapshot"].as_str().expect("it has an id");
    let refused = restore(lab, &world, &[plain, "--define", "x", "--new-ids"]);
    refused.refused(1, "no domain XML");
}

/// Reads one byte of a qcow2 disk.
fn byte_at(image: &Path, world: &World, offset: u64) -> u8 {
    let raw = world.path("byte.raw");
    world.tool(
        "qemu-img",
        &["convert", "-O", "raw", text(image), text(&raw)],
    );
    let bytes = fs::read(&raw).expect("it is converted");
    bytes[usize::try_from(offset).expect("it is small")]
}

#[test]
fn a_report_names_what_was_left_out() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, _) = light(lab, &world, "define-report");
    let xml = world.path("disk.xml");
    let other = domain.folder().join("foreign.raw");
    fs::write(&other, [0; 4096]).expect("a file can be written");
    let disk = format!(
        "<disk type='file' device='cdrom'><source file='{}'/><target dev='sdz' bus='sata'/>\
         <readonly/></disk>",
        text(&other)
    );
    fs::write(&xml, disk).expect("a file can be written");
    lab.virsh(&["attach-device", domain.name(), text(&xml), "--config"]);
    let id = snapshot::take(lab, &world, &domain);
    let folder = lab.path("define-report-copy");
    let args = [
        &id,
        "--define",
        "define-reported",
        "--new-ids",
        "--dir",
        text(&folder),
    ];
    let ran = restore(lab, &world, &args);
    let restored = Restored(lab, "define-reported");
    assert_eq!(ran.code, 0, "{ran:?}");
    let done: Value = ran.document();
    assert!(done["dropped"].to_string().contains("drive sdz"), "{done}");
    let xml = restored.xml();
    assert!(xml.contains("sdz") && !xml.contains("foreign.raw"), "{xml}");
}
