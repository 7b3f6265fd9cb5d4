//! Domains that are off: read from their images, and by their changes all the same.

use crate::lab::Lab;
use crate::live_backup::{backup, compare, mode};
use crate::world::{MIB, World};

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
            "4MiB",
            "--offline",
            offline,
        ];
        let mut command = lab.command(&world, args);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let child = command.spawn().expect("cairn can be run");
        std::thread::sleep(std::time::Duration::from_secs(2));
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
        let begun = std::time::Instant::now();
        while bitmaps() == 0 {
            assert!(begun.elapsed().as_secs() < 30, "no bitmap came");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
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
