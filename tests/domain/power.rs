//! Backups of running domains whose ground gives way: no room is left, or the domain goes off.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::lab::{Domain, Lab};
use crate::live_backup::{backup, compare, mode};
use crate::live_interrupt::{count, goes_on, has_job, scratch_files};
use crate::mounts::{LoopDevice, Mount};
use crate::waiting::wait_for;
use crate::world::{MIB, Ran, World, text};

/// A file system of its own, as small as wanted, that the lab's QEMUs see too.
struct Small {
    folder: PathBuf,
    libvirtd: u32,
    _mount: Mount,
    device: ManuallyDrop<LoopDevice>,
}

impl Small {
    fn new(lab: &Lab, name: &str, size: u64) -> Self {
        let folder = lab.path(name);
        let image = lab.path(&format!("{name}.img"));
        let file = std::fs::File::create(&image).expect("the name is new");
        file.set_len(size).expect("it can grow");
        let options = ["-q", "-F", "-m", "0", "-O", "^has_journal"];
        tool("mkfs.ext4", &[&options[..], &[text(&image)]].concat());
        let device = LoopDevice::attach(&image, &[]);
        let small = Self {
            _mount: Mount::new(device.path(), &folder, &[]),
            folder,
            libvirtd: lab.libvirtd(),
            device: ManuallyDrop::new(device),
        };
        // The libvirtd does not see what is mounted after its start.
        small.inside(&["mount", text(small.device.path()), text(&small.folder)]);
        small
    }

    fn inside(&self, args: &[&str]) {
        let pid = self.libvirtd.to_string();
        tool("nsenter", &[&["-t", &pid, "-m"], args].concat());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Not by a panic: a test that failed drops it while it unwinds. Lazily: its QEMU may be
        // there still, and the device ends with the last user.
        let pid = self.libvirtd.to_string();
        let args = ["-t", &pid, "-m", "umount", "-l", text(&self.folder)];
        drop(Command::new("nsenter").args(args).output());
        // A lab that was started meanwhile has it mounted too, for as long as it stands.
        drop(self.device.detach());
    }
}

#[track_caller]
fn tool(name: &str, args: &[&str]) -> String {
    let ran = Ran::of(Command::new(name).args(args));
    assert_eq!(ran.code, 0, "{name} {args:?}: {ran:?}");
    ran.out
}

/// Begins a backup that takes a while, and waits until its job is at work and its disks are read.
fn begin(lab: &Lab, world: &World, domain: &Domain<'_>, more: &[&str]) -> Child {
    let args = [
        &["backup", domain.name(), "--json", "--limit", "1MiB"],
        more,
    ]
    .concat();
    let mut command = lab.command(world, args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("cairn can be run");
    // A session of the repository is there while disks are read.
    wait_for("the reading", || !world.stored("locks").is_empty());
    assert!(has_job(lab, domain));
    child
}

fn end(child: Child) -> Ran {
    let output = child.wait_with_output().expect("it can be waited for");
    output.into()
}

fn scratch_args(folder: &Path, min: &'static str) -> [String; 4] {
    let folder = text(folder).to_owned();
    [
        "--scratch-dir".into(),
        folder,
        "--scratch-min".into(),
        min.into(),
    ]
}

#[test]
fn a_backup_is_given_up_before_scratch_space_runs_full() {
    let (lab, world) = (Lab::shared(), World::new());
    let small = Small::new(lab, "narrow-fs", 64 * MIB);
    let domain = crate::live_interrupt::domain(lab, &world, "running-full");
    domain.write("vda", 32 * MIB, 24 * MIB, 0x33);
    let scratch = scratch_args(&small.folder, "56MiB");
    let scratch: Vec<&str> = scratch.iter().map(String::as_str).collect();
    let child = begin(lab, &world, &domain, &scratch);
    // Overwritten while it is read: what was there goes to the scratch file. 57 MiB are free, and
    // 14 must stay.
    for part in 0..6 {
        domain.write("vda", (8 + part * 8) * MIB, 8 * MIB, 0x44);
    }
    let given_up = end(child);
    given_up.refused(1, "bytes left for scratch files");
    assert!(!has_job(lab, &domain));
    assert_eq!(count(&world), 1);
    let left = std::fs::read_dir(&small.folder).expect("it can be listed");
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["lost+found"]);
    goes_on(lab, &world, &domain);
}

#[test]
fn a_guest_that_was_paused_by_an_io_error_goes_on() {
    let (lab, world) = (Lab::shared(), World::new());
    let small = Small::new(lab, "full-fs", 16 * MIB);
    let domain = lab.guest_with("paused-by-io", &[("vda", 96 * MIB)]);
    let fill = "dd if=/dev/urandom of=/mnt/vda/old bs=1M count=48 && sync";
    assert_eq!(domain.exec(fill).code, 0);
    // Nothing has to stay free: only QEMU notices that there is no room.
    let scratch = scratch_args(&small.folder, "0");
    let scratch: Vec<&str> = scratch.iter().map(String::as_str).collect();
    let child = begin(lab, &world, &domain, &scratch);
    let write = "(sleep 4; dd if=/dev/zero of=/mnt/vda/old bs=1M count=48 conv=notrunc,fsync && \
                 touch /tmp/written || touch /tmp/failed) >/dev/null 2>&1 &";
    assert_eq!(domain.exec(write).code, 0);
    let given_up = end(child);
    given_up.refused(1, "paused by an I/O error");
    assert_eq!(count(&world), 0);
    assert_eq!(domain.state(), "running (unpaused)");
    // The guest's write, which QEMU held back, is done at last: the guest saw no error.
    wait_for("the guest's write", || {
        domain
            .exec("[ -e /tmp/written ] || [ -e /tmp/failed ]")
            .code
            == 0
    });
    assert_eq!(domain.exec("[ -e /tmp/written ]").code, 0);
    let said = domain.exec("dmesg | grep -ci 'i/o error'");
    assert_eq!(said.out, "0\n", "{said:?}");
    assert_eq!(scratch_files(&domain), 0);
    let next = backup(lab, &world, &["paused-by-io"]);
    assert_eq!(next["domain"]["consistency"], "agent");
    let restored = world.path("restored.raw");
    world.ok(["restore", "paused-by-io", "--to", text(&restored)]);
    tool("e2fsck", &["-fn", text(&restored)]);
}

#[track_caller]
fn repeated_offline(world: &World, ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{ran:?}");
    let said = ran.err.matches("its images are read now").count();
    assert_eq!(said, 1, "{ran:?}");
    let document = ran.document();
    assert_eq!(document["domain"]["method"], "offline", "{ran:?}");
    assert_eq!(document["domain"]["consistency"], "offline", "{ran:?}");
    assert_eq!(count(world), 2);
    document
}

#[test]
fn a_domain_that_goes_off_is_read_from_its_images() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = crate::live_interrupt::domain(lab, &world, "pulled-plug");
    let child = begin(lab, &world, &domain, &[]);
    domain.destroy();
    let document = repeated_offline(&world, &end(child));
    assert_eq!(mode(&document), ("incremental", ""));
    assert_eq!(scratch_files(&domain), 0);
    domain.start();
    compare(&world, &domain, "vda");
    domain.write("vda", 50 * MIB, MIB, 0x55);
    let next = backup(lab, &world, &["pulled-plug"]);
    assert_eq!(next["parent"], document["snapshot"]);
    assert_eq!(mode(&next), ("incremental", ""));
}

#[test]
fn a_guest_that_powers_off_is_read_from_its_images() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.guest_with("powers-off", &[("vda", 64 * MIB)]);
    assert_eq!(domain.exec("echo before > /mnt/vda/file && sync").code, 0);
    backup(lab, &world, &["powers-off"]);
    let fill = "dd if=/dev/urandom of=/mnt/vda/new bs=1M count=24 && sync";
    assert_eq!(domain.exec(fill).code, 0);
    let child = begin(lab, &world, &domain, &[]);
    let off = "(sleep 2; echo after > /mnt/vda/file; umount /mnt/vda; poweroff -f) \
               >/dev/null 2>&1 &";
    assert_eq!(domain.exec(off).code, 0);
    let document = repeated_offline(&world, &end(child));
    assert_eq!(mode(&document), ("incremental", ""));
    let restored = world.path("restored.raw");
    world.ok(["restore", "powers-off", "--to", text(&restored)]);
    tool("e2fsck", &["-fn", text(&restored)]);
    world.ok(["get", "powers-off:vda/file", text(&world.path("file"))]);
    let file = std::fs::read_to_string(world.path("file"));
    assert_eq!(file.expect("it was fetched"), "after\n");
}

#[test]
fn a_guest_that_was_paused_before_its_backup_stays_so() {
    let (lab, world) = (Lab::shared(), World::new());
    let small = Small::new(lab, "paused-fs", 16 * MIB);
    let domain = lab.guest_with("paused-before", &[("vda", 64 * MIB)]);
    domain.destroy();
    let image = small.folder.join("vdb.qcow2");
    tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&image), "64M"],
    );
    domain.add_disk("vdb", &image);
    domain.start();
    let write = "(sleep 4; dd if=/dev/urandom of=/dev/vdb bs=1M count=32) >/dev/null 2>&1 &";
    assert_eq!(domain.exec(write).code, 0);
    wait_for("the pause", || domain.state() == "paused (I/O error)");
    let scratch = scratch_args(&lab.path("run"), "1MiB");
    let scratch: Vec<&str> = scratch.iter().map(String::as_str).collect();
    let args = [&["paused-before", "--freeze", "none"], &scratch[..]].concat();
    for mode in ["full", "incremental"] {
        let document = backup(lab, &world, &args);
        assert_eq!(document["disks"][1]["mode"], mode, "{document}");
        assert_eq!(document["warnings"], serde_json::json!([]), "{document}");
        assert_eq!(domain.state(), "paused (I/O error)");
    }
    // An image with writes that wait may not stand still below an overlay: it is read or refused.
    let snapshot = [&["backup"], &args[..], &["--mode", "snapshot"]].concat();
    let ran = lab.cairn(&world, snapshot);
    assert!([0, 1, 11].contains(&ran.code), "{ran:?}");
    assert_eq!(domain.state(), "paused (I/O error)");
    let disks = domain.virsh(&["domblklist", "paused-before"]);
    assert!(!disks.contains(".overlay"), "{disks}");
    domain.destroy();
    let restored = world.path("restored.raw");
    let to = text(&restored);
    world.ok(["restore", "paused-before", "--disk", "vdb", "--to", to]);
    world.assert_equal(("raw", to), ("qcow2", text(&image)));
    drop(domain);
}
