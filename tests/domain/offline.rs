//! Domains that are off: read from their images, and by their changes all the same.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use crate::lab::Lab;
use crate::live_backup::{backup, compare, mode};
use crate::mounts::LoopDevice;
use crate::waiting::wait_for;
use crate::world::{MIB, Ran, World, text};

#[test]
fn the_changes_are_followed_through_starts_and_stops() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("offline", &[("vda", 128 * MIB), ("vdb", 64 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    domain.destroy();
    let first = backup(lab, &world, &["offline"]);
    assert_eq!(first["domain"]["consistency"], "offline");
    assert_eq!(mode(&first).0, "full");
    // Off: what other tools of QEMU's write is marked too.
    let image = domain.image("vda");
    let image = image.to_str().expect("a test's path");
    world.tool(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 0x22 4M 64k", image],
    );
    let second = backup(lab, &world, &["offline"]);
    assert_eq!(mode(&second), ("incremental", ""));
    assert_eq!(second["disks"][0]["dirty_bytes"], 64 * 1024);
    domain.start();
    domain.write("vda", 8 * MIB, 128 * 1024, 0x33);
    let third = backup(lab, &world, &["offline"]);
    assert_eq!(third["domain"]["method"], "pull");
    assert_eq!(mode(&third), ("incremental", ""));
    assert_eq!(third["disks"][0]["dirty_bytes"], 128 * 1024);
    domain.write("vda", 16 * MIB, 64 * 1024, 0x44);
    domain.destroy();
    let fourth = backup(lab, &world, &["offline", "--offline", "lock"]);
    assert_eq!(mode(&fourth), ("incremental", ""));
    assert_eq!(fourth["disks"][0]["dirty_bytes"], 64 * 1024);
    let whole = world.json(["backup", "whole", "--disk", &format!("vda={image}")]);
    assert_eq!(whole["disks"][0]["recipe"], fourth["disks"][0]["recipe"]);
    let bitmaps = world.tool("qemu-img", &["info", image]);
    assert_eq!(bitmaps.matches("name: cairn-").count(), 2, "{bitmaps}");
    domain.start();
    compare(&world, &domain, "vda");
}

#[test]
fn a_killed_qemu_that_stays_off_costs_a_scan() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("crashed", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    domain.destroy();
    backup(lab, &world, &["crashed"]);
    domain.start();
    domain.write("vda", 4 * MIB, 64 * 1024, 0x22);
    domain.kill();
    let scanned = backup(lab, &world, &["crashed"]);
    assert_eq!(mode(&scanned).0, "scan");
    assert!(mode(&scanned).1.contains("missing or broken"), "{scanned}");
    domain.start();
    compare(&world, &domain, "vda");
}

#[test]
fn a_start_is_locked_out_or_seen() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("starts", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, 24 * MIB, 0x11);
    domain.destroy();
    for (offline, starts) in [("lock", false), ("detect", true)] {
        let args = [
            "backup",
            "starts",
            "--json",
            "--full",
            "--limit",
            "2MiB",
            "--offline",
            offline,
        ];
        let mut command = lab.command(&world, args);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let child = command.spawn().expect("cairn can be run");
        wait_for("the reading", || !world.stored("locks").is_empty());
        let started = lab.try_virsh(&["start", "starts"]);
        assert_eq!(started.code == 0, starts, "{started:?}");
        let output = child.wait_with_output().expect("it can be waited for");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        let document: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("cairn prints JSON");
        let method = if starts { "pull" } else { "offline" };
        assert_eq!(document["domain"]["method"], method, "{said}");
    }
    compare(&world, &domain, "vda");
}

/// Backs a domain up slowly, and runs this while its images are read.
fn backup_while(lab: &Lab, world: &World, args: &[&str], during: impl FnOnce()) -> Ran {
    let args = [&["backup", "--json", "--full", "--limit", "1MiB"], args].concat();
    let mut command = lab.command(world, args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("cairn can be run");
    wait_for("the reading", || !world.stored("locks").is_empty());
    during();
    child
        .wait_with_output()
        .expect("it can be waited for")
        .into()
}

#[test]
fn a_change_of_a_backing_file_or_a_data_file_is_seen() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("beneath", &[("vda", 64 * MIB), ("vdb", 64 * MIB)]);
    domain.destroy();
    let (vda, vdb) = (domain.image("vda"), domain.image("vdb"));
    let (vda, vdb) = (text(&vda), text(&vdb));
    let folder = domain.folder();
    let base = folder.join("base.qcow2");
    let data = folder.join("data.raw");
    std::fs::copy(vda, &base).expect("the image can be copied");
    for image in [vda, vdb] {
        std::fs::remove_file(image).expect("it is there");
    }
    let create = |args: &[&str]| drop(world.tool("qemu-img", &[&["create", "-q"], args].concat()));
    create(&["-f", "qcow2", "-b", text(&base), "-F", "qcow2", vda]);
    create(&[
        "-f",
        "qcow2",
        "-o",
        &format!("data_file={}", text(&data)),
        vdb,
        "64M",
    ]);
    world.write(text(&base), &["write -P 0x11 1M 12M"]);
    world.write(vdb, &["write -P 0x22 0 12M"]);
    let base_changes = || world.write(text(&base), &["write -P 0x33 2M 64k"]);
    // Without a word to the image that names it.
    let data_changes = || {
        let file = std::fs::File::options().write(true).open(&data);
        let file = file.expect("the data file is there");
        file.write_all_at(&[0x44; 4096], 3 * MIB)
            .expect("there is space");
    };
    let changes: [&dyn Fn(); 2] = [&base_changes, &data_changes];
    for change in changes {
        let ran = backup_while(lab, &world, &["beneath"], change);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains("its images were changed"), "{ran:?}");
        for (target, image) in [("vda", vda), ("vdb", vdb)] {
            let restored = world.path(target);
            let to = text(&restored);
            world.ok([
                "restore", "beneath", "--disk", target, "--to", to, "--force",
            ]);
            world.assert_equal(("raw", to), ("qcow2", image));
        }
    }
    assert_eq!(crate::live_interrupt::count(&world), 2);
}

#[test]
fn what_cannot_be_seen_is_said() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("unseen", &[("vda", 32 * MIB)]);
    domain.write("vda", MIB, 12 * MIB, 0x11);
    domain.destroy();
    let image = domain.image("vda");
    world.tool("qemu-img", &["resize", "-q", text(&image), "48M"]);
    // A qcow2 on a block device, as on a logical volume.
    let raw = domain.folder().join("device.img");
    std::fs::copy(&image, &raw).expect("the image can be copied");
    let file = std::fs::File::options().write(true).open(&raw);
    file.and_then(|file| file.set_len(64 * MIB))
        .expect("it can grow");
    let attached = LoopDevice::attach(&raw, &[]);
    let device = text(attached.path());
    // The kernel counts what is written to a device, and that is looked at; or it does not count.
    let name = attached.path().file_name().expect("a device has a name");
    let counts = Path::new("/sys/block").join(name).join("queue/iostats");
    std::fs::write(&counts, "0").expect("root may");
    domain.redefine(|xml| {
        let file = format!("<source file='{}'/>", text(&image));
        let xml = xml.replace(&file, &format!("<source dev='{}'/>", device));
        xml.replace(
            "<disk type='file' device='disk'>",
            "<disk type='block' device='disk'>",
        )
    });
    let seen = backup(lab, &world, &["unseen"]);
    let warnings = seen["warnings"].to_string();
    assert!(
        warnings.contains(device) && warnings.contains("--offline lock"),
        "{seen}"
    );
    std::fs::write(&counts, "1").expect("root may");
    let counted = backup(lab, &world, &["unseen"]);
    assert_eq!(counted["warnings"], serde_json::json!([]), "{counted}");
    let locked = backup_while(lab, &world, &["unseen", "--offline", "lock"], || {
        let started = lab.try_virsh(&["start", "unseen"]);
        assert_ne!(started.code, 0, "{started:?}");
    });
    assert_eq!(locked.code, 0, "{locked:?}");
    assert_eq!(
        locked.document()["warnings"],
        serde_json::json!([]),
        "{locked:?}"
    );
    domain.start();
    domain.check("vda", MIB, MIB, 0x11);
    // What the guest had not written yet goes on from its memory only.
    domain.virsh(&["managedsave", "unseen"]);
    let saved = backup(lab, &world, &["unseen"]);
    let warnings = saved["warnings"].to_string();
    assert!(warnings.contains("memory is saved"), "{saved}");
    domain.virsh(&["managedsave-remove", "unseen"]);
}

#[test]
fn a_signal_and_a_kill_leave_no_bitmaps() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("ended", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, 24 * MIB, 0x11);
    domain.destroy();
    let image = domain.image("vda");
    let image = image.to_str().expect("a test's path");
    let bitmaps = || {
        world
            .tool("qemu-img", &["info", image])
            .matches("name: cairn-")
            .count()
    };
    for signal in ["-INT", "-KILL"] {
        let mut command = lab.command(&world, ["backup", "ended", "--limit", "1MiB"]);
        command
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        let mut child = command.spawn().expect("cairn can be run");
        // Not asked for before that: who looks at an image is in the way of who marks it.
        wait_for("the reading", || !world.stored("locks").is_empty());
        assert!(bitmaps() > 0);
        let killed = std::process::Command::new("/bin/kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(killed.expect("kill can be run").success());
        let status = child.wait().expect("it can be waited for");
        if signal == "-INT" {
            assert_eq!(status.code(), Some(130));
        } else {
            let recovered = lab.cairn(&world, ["recover", "ended"]);
            assert_eq!(recovered.code, 0, "{recovered:?}");
        }
        assert_eq!(bitmaps(), 0, "after {signal}");
    }
    assert_eq!(mode(&backup(lab, &world, &["ended"])).0, "full");
    domain.start();
    compare(&world, &domain, "vda");
}
