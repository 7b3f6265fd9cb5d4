//! Backups of running domains that end midway: the domain goes on, nothing is published, and the
//! next one is by changes again.

use std::process::Stdio;

use crate::lab::{Domain, Lab};
use crate::live_backup::{backup, compare, mode};
use crate::waiting::wait_for;
use crate::world::{MIB, World};

pub fn has_job(lab: &Lab, domain: &Domain<'_>) -> bool {
    // While a job begins, libvirt may say that it knows nothing of it yet.
    let job = lab.try_virsh(&["domjobinfo", domain.name()]);
    job.code == 0 && !job.out.contains("None")
}

pub fn scratch_files(domain: &Domain<'_>) -> usize {
    let entries = std::fs::read_dir(domain.folder()).expect("the folder can be listed");
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(".scratch"))
        .count()
}

/// A domain with a backup and something to read since.
pub fn domain<'l>(lab: &'l Lab, world: &World, name: &str) -> Domain<'l> {
    let domain = lab.light(name, &[("vda", 128 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    backup(lab, world, &[name]);
    domain.write("vda", 8 * MIB, 24 * MIB, 0x22);
    domain
}

pub fn slow(lab: &Lab, world: &World, name: &str) -> std::process::Child {
    let mut command = lab.command(world, ["backup", name, "--limit", "2MiB"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("cairn can be run")
}

pub fn signal(child: &std::process::Child, signal: &str) {
    let status = std::process::Command::new("/bin/kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(status.expect("kill can be run").success());
}

pub fn count(world: &World) -> usize {
    world.json(["snapshots"]).as_array().map_or(0, Vec::len)
}

pub fn goes_on(lab: &Lab, world: &World, domain: &Domain<'_>) {
    assert!(domain.state().starts_with("running"), "{}", domain.state());
    let document = backup(lab, world, &[domain.name()]);
    assert_eq!(mode(&document), ("incremental", ""));
    assert_eq!(count(world), 2);
    assert_eq!(scratch_files(domain), 0);
    compare(world, domain, "vda");
}

#[test]
fn a_signal_ends_the_job_and_leaves_nothing() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = domain(lab, &world, "signalled");
    let mut child = slow(lab, &world, "signalled");
    wait_for("the job", || has_job(lab, &domain));
    signal(&child, "-INT");
    let status = child.wait().expect("it can be waited for");
    assert_eq!(status.code(), Some(130));
    assert!(!has_job(lab, &domain));
    assert_eq!(scratch_files(&domain), 0);
    let names = domain.virsh(&["checkpoint-list", "signalled", "--name"]);
    assert_eq!(
        names.lines().filter(|name| !name.trim().is_empty()).count(),
        1
    );
    goes_on(lab, &world, &domain);
}

#[test]
fn what_kill_leaves_is_cleared_by_the_next_run_and_by_recover() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = domain(lab, &world, "slain");
    for clears in ["backup", "recover"] {
        let mut child = slow(lab, &world, "slain");
        wait_for("the job", || has_job(lab, &domain));
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
        assert!(has_job(lab, &domain));
        if clears == "recover" {
            let ran = lab.cairn(&world, ["recover", "slain", "--json"]);
            assert_eq!(
                (ran.code, ran.document()["runs"].as_u64()),
                (0, Some(1)),
                "{ran:?}"
            );
            assert!(!has_job(lab, &domain));
            assert_eq!(scratch_files(&domain), 0);
        } else {
            goes_on(lab, &world, &domain);
            domain.write("vda", 64 * MIB, 24 * MIB, 0x33);
        }
    }
    let document = backup(lab, &world, &["slain"]);
    assert_eq!(mode(&document), ("incremental", ""));
}

#[test]
fn a_second_backup_is_refused_at_once_and_cancel_ends_the_first() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = domain(lab, &world, "busy");
    let mut child = slow(lab, &world, "busy");
    wait_for("the job", || has_job(lab, &domain));
    // libvirt alone would answer after 30 seconds, and with other words.
    let second = lab.cairn(&world, ["backup", "busy"]);
    second.refused(11, "another cairn");
    let cancelled = lab.cairn(&world, ["cancel", "busy"]);
    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    assert_eq!(
        child.wait().expect("it can be waited for").code(),
        Some(130)
    );
    goes_on(lab, &world, &domain);
}

#[test]
fn another_programs_job_is_left_alone() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("theirs", &[("vda", 64 * MIB)]);
    let socket = lab.path("theirs.sock");
    let xml = lab.path("theirs.xml");
    let job = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/></domainbackup>",
        socket.display()
    );
    std::fs::write(&xml, job).expect("the job can be written");
    domain.virsh(&[
        "backup-begin",
        "theirs",
        xml.to_str().expect("a test's path"),
    ]);
    let refused = lab.cairn(&world, ["backup", "theirs"]);
    assert_eq!(refused.code, 11, "{refused:?}");
    assert!(has_job(lab, &domain));
    domain.virsh(&["domjobabort", "theirs"]);
    assert_eq!(mode(&backup(lab, &world, &["theirs"])).0, "full");
}

#[test]
fn too_little_room_for_scratch_files_is_said_before_anything_happens() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("narrow", &[("vda", 64 * MIB)]);
    let refused = lab.cairn(&world, ["backup", "narrow", "--scratch-min", "1000TiB"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("--scratch-min"), "{refused:?}");
    let in_memory = lab.cairn(&world, ["backup", "narrow", "--scratch-dir", "/dev/shm"]);
    assert_eq!(in_memory.code, 1, "{in_memory:?}");
    assert!(!has_job(lab, &domain));
    assert_eq!(
        domain
            .virsh(&["checkpoint-list", "narrow", "--name"])
            .trim(),
        ""
    );
}

#[test]
fn a_qemu_that_dies_fails_the_backup() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = domain(lab, &world, "dies");
    let mut child = slow(lab, &world, "dies");
    wait_for("the job", || has_job(lab, &domain));
    domain.kill();
    let status = child.wait().expect("it can be waited for");
    // The images of a domain that is off are read instead.
    assert!([Some(0), Some(1)].contains(&status.code()), "{status}");
    domain.start();
    let document = backup(lab, &world, &["dies"]);
    assert_ne!(mode(&document).0, "full");
    compare(&world, &domain, "vda");
}
