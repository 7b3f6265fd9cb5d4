//! `cairn backup --mode snapshot` and `--memory`, and what is left of them.

use std::fs;
use std::process::{Command, Stdio};

use crate::lab::{Domain, Lab};
use crate::waiting::wait_for;
use crate::world::{Ran, World, text};

fn overlays(domain: &Domain<'_>) -> usize {
    let entries = fs::read_dir(domain.folder()).expect("the folder is there");
    let names = entries.map(|entry| entry.expect("it can be listed").file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with(".cairn-"))
        .count()
}

/// Requires that the guest writes to its own images again, and nothing else is left.
fn assert_flat(domain: &Domain<'_>) {
    assert_eq!(overlays(domain), 0);
    for kind in [&["dumpxml"][..], &["dumpxml", "--inactive"]] {
        let xml = domain.virsh(&[kind, &[domain.name()]].concat());
        assert!(!xml.contains(".cairn-"), "{xml}");
        assert!(xml.contains(text(&domain.image("vda"))), "{xml}");
    }
}

#[track_caller]
fn cairn(lab: &Lab, world: &World, args: &[&str]) -> Ran {
    let ran = lab.cairn(world, args);
    assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    ran
}

/// Restores the newest snapshot's disks, and requires clean file systems.
fn restore_clean(lab: &Lab, world: &World, domain: &Domain<'_>, name: &str) -> [Vec<u8>; 2] {
    let folder = domain.folder().join(name);
    let to = format!("{}/", text(&folder));
    cairn(lab, world, &["restore", domain.name(), "--to", &to]);
    ["vda", "vdb"].map(|disk| {
        let path = folder.join(format!("{disk}.raw"));
        let ran = Ran::of(Command::new("e2fsck").args(["-fn", text(&path)]));
        assert_eq!(ran.code, 0, "{ran:?}");
        fs::read(path).expect("it was restored")
    })
}

#[test]
fn a_guest_that_writes_is_held_by_overlays_and_goes_on_with_its_images() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.guest("overlaid");
    domain.exec("dd if=/dev/urandom of=/mnt/vda/a bs=64k count=40; sync");
    let sum = domain.exec("md5sum /mnt/vda/a").out;
    domain.begin_writing(&["/mnt/vda/log", "/mnt/vdb/log"]);
    let backup = ["backup", "overlaid", "--mode", "snapshot"];
    let first = cairn(lab, &world, &backup);
    assert!(first.out.contains("guest agent"), "{first:?}");
    assert_flat(&domain);
    restore_clean(lab, &world, &domain, "first");
    // By the bitmap in the image that stands still.
    domain.exec("killall writer; dd if=/dev/urandom of=/mnt/vda/b bs=64k count=9; sync");
    domain.exec("umount /mnt/vda /mnt/vdb");
    cairn(lab, &world, &[&backup[..], &["--incremental"]].concat());
    let by_changes = restore_clean(lab, &world, &domain, "changes");
    cairn(lab, &world, &[&backup[..], &["--full"]].concat());
    let whole = restore_clean(lab, &world, &domain, "whole");
    assert!(by_changes == whole, "the bitmap missed something");
    // What was written to the overlays is in the checkpoint's bitmap after the commit.
    domain.exec("mount /dev/vda /mnt/vda; date > /mnt/vda/c; umount /mnt/vda");
    cairn(lab, &world, &["backup", "overlaid", "--incremental"]);
    let by_job = restore_clean(lab, &world, &domain, "job");
    cairn(lab, &world, &["backup", "overlaid", "--full"]);
    let whole = restore_clean(lab, &world, &domain, "whole-again");
    assert!(by_job == whole, "the bitmap missed something");
    domain.exec("mount /dev/vda /mnt/vda");
    assert_eq!(domain.exec("md5sum /mnt/vda/a").out, sum);
    assert_flat(&domain);
}

/// Begins a backup that reads slowly, and kills it once the guest writes to overlays.
fn begin_and_kill(lab: &Lab, world: &World, domain: &Domain<'_>) {
    let hook = "after-freeze=sleep 200";
    let args = [
        "backup",
        domain.name(),
        "--mode",
        "snapshot",
        "--hook",
        hook,
    ];
    let mut command = lab.command(world, args);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it can be run");
    wait_for("an overlay", || {
        let xml = domain.virsh(&["dumpxml", domain.name()]);
        xml.contains(".overlay")
    });
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
}

#[test]
fn overlays_of_a_killed_backup_are_committed_back() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.guest("killed-overlaid");
    begin_and_kill(lab, &world, &domain);
    domain.exec("dd if=/dev/urandom of=/mnt/vda/a bs=64k count=40; sync");
    let sum = domain.exec("md5sum /mnt/vda/a").out;
    cairn(
        lab,
        &world,
        &["backup", domain.name(), "--mode", "snapshot"],
    );
    assert_flat(&domain);
    assert_eq!(domain.exec("md5sum /mnt/vda/a").out, sum);
    restore_clean(lab, &world, &domain, "restored");
    // The same of a domain whose QEMU was killed as well.
    begin_and_kill(lab, &world, &domain);
    domain.exec("cp /mnt/vda/a /mnt/vda/b; sync");
    domain.kill();
    cairn(lab, &world, &["recover", domain.name()]);
    assert_flat(&domain);
    domain.start();
    let sums = domain.exec("md5sum /mnt/vda/a /mnt/vda/b | cut -d' ' -f1 | uniq | wc -l");
    assert_eq!(sums.out.trim(), "1", "{sums:?}");
    assert_eq!(domain.exec("md5sum /mnt/vda/a").out, sum);
}

#[test]
fn a_guest_goes_on_from_its_memory() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.guest("remembered");
    domain.exec("mkdir -p /tmp/t; mount -t tmpfs t /tmp/t; echo before > /tmp/t/f");
    domain.exec("echo before > /mnt/vda/f; sync");
    cairn(lab, &world, &["backup", domain.name(), "--memory"]);
    assert_flat(&domain);
    domain.exec("echo after > /tmp/t/f; echo after > /mnt/vda/f; sync");
    cairn(lab, &world, &["backup", domain.name(), "--incremental"]);
    let dir = domain.folder().join("restored");
    let listed = cairn(lab, &world, &["snapshots", "--json"]).out;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("it is JSON");
    let first = &listed[0]["id"];
    let first = first.as_str().expect("it has an id").to_owned();
    let args = [
        "restore",
        &first,
        "--memory",
        "--dir",
        text(&dir),
        "--force",
    ];
    let refused = lab.cairn(&world, args);
    assert!(refused.err.contains("is not off"), "{refused:?}");
    domain.destroy();
    cairn(lab, &world, &args);
    let files = domain.exec("cat /tmp/t/f /mnt/vda/f");
    assert_eq!(files.out, "before\nbefore\n", "{files:?}");
    let left = fs::read_dir(&dir).expect("it was made").count();
    assert_eq!(left, 2, "the memory's file is left");
}
