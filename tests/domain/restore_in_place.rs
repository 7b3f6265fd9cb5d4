//! `cairn restore --in-place`: a domain's disks as they were, and what a crash midway leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::lab::{Domain, Lab};
use crate::snapshot;
use crate::waiting::wait_for;
use crate::world::{KIB, MIB, Ran, World, text};

const GIB: u64 = 1024 * MIB;

fn in_place(lab: &Lab, world: &World, id: &str, more: &[&str]) -> Ran {
    let args = ["restore", id, "--in-place", "--yes", "--json"];
    lab.cairn(world, args.iter().chain(more))
}

#[track_caller]
fn set_back(lab: &Lab, world: &World, id: &str) -> Value {
    let ran = in_place(lab, world, id, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.document()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("it is a number")
}

/// Files beside a disk that are the restore's own.
fn leftovers(domain: &Domain<'_>) -> Vec<String> {
    let entries = fs::read_dir(domain.folder()).expect("the folder is there");
    let names = entries.map(|entry| entry.expect("it is listed").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names
        .filter(|name| name.contains("cairn-inplace"))
        .collect()
}

/// Two disks with patterns in a snapshot, and others since; the domain is off.
pub fn changed<'l>(lab: &'l Lab, world: &World, name: &str) -> (Domain<'l>, String) {
    let domain = lab.light(name, &[("vda", 32 * MIB), ("vdb", 16 * MIB)]);
    domain.write("vda", MIB, 256 * KIB, 0x11);
    domain.write("vdb", 3 * MIB, 256 * KIB, 0x22);
    let id = snapshot::take(lab, world, &domain);
    domain.write("vda", MIB, 64 * KIB, 0x77);
    domain.write("vda", 20 * MIB, 64 * KIB, 0x78);
    domain.write("vdb", 3 * MIB, 64 * KIB, 0x79);
    domain.destroy();
    (domain, id)
}

#[track_caller]
pub fn check_old(domain: &Domain<'_>) {
    domain.check("vda", MIB, 256 * KIB, 0x11);
    domain.check("vda", 20 * MIB, 64 * KIB, 0);
    domain.check("vdb", 3 * MIB, 256 * KIB, 0x22);
}

#[track_caller]
fn check_new(domain: &Domain<'_>) {
    domain.check("vda", MIB, 64 * KIB, 0x77);
    domain.check("vda", 20 * MIB, 64 * KIB, 0x78);
    domain.check("vdb", 3 * MIB, 64 * KIB, 0x79);
}

#[test]
fn a_large_disk_is_set_back_by_writing_what_changed() {
    let lab = Lab::shared();
    let world = World::new();
    let domain = lab.light("inplace-large", &[("vda", 4 * GIB)]);
    domain.write("vda", 0, 64 * MIB, 0x31);
    domain.write("vda", 3 * GIB, 64 * MIB, 0x32);
    let id = snapshot::take(lab, &world, &domain);
    for run in 0..8 {
        let near = if run % 2 == 0 { 0 } else { 3 * GIB };
        domain.write("vda", near + (run / 2) * 10 * MIB, 8 * MIB, 0x90);
    }
    domain.destroy();
    let done = set_back(lab, &world, &id);
    let disk = &done["disks"][0];
    assert_eq!(disk["doubt"], Value::Null, "{done}");
    assert_eq!(number(&disk["changed_bytes"]), 64 * MIB);
    assert_eq!(number(&disk["compared_bytes"]), 64 * MIB);
    assert!(number(&disk["written_bytes"]) < 150 * MIB, "{done}");
    assert_eq!(leftovers(&domain), [""; 0]);
    domain.start();
    domain.check("vda", 0, 64 * MIB, 0x31);
    domain.check("vda", 3 * GIB, 64 * MIB, 0x32);
    // The same bytes have the same recipe, and a checkpoint of before would be a lie.
    assert_eq!(
        lab.virsh(&["checkpoint-list", "--name", domain.name()])
            .trim(),
        ""
    );
    let again = snapshot::take(lab, &world, &domain);
    let shown = |id: &str| world.json(["show", id]);
    let (then, now) = (shown(&id), shown(&again));
    assert_eq!(then["disks"][0]["recipe"], now["disks"][0]["recipe"]);
    assert_ne!(now["disks"][0]["recipe"], Value::Null);
    assert_eq!(now["disks"][0]["mode"], "scan", "{now}");
}

#[test]
fn without_a_bitmap_to_rely_on_everything_is_compared() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, id) = changed(lab, &world, "inplace-copied");
    let image = domain.image("vda");
    let copy = image.with_extension("copy");
    fs::copy(&image, &copy).expect("there is space");
    fs::remove_file(&image).expect("it can be removed");
    fs::hard_link(&copy, &image).expect("it is the same folder");
    let done = set_back(lab, &world, &id);
    let [vda, vdb] = [&done["disks"][0], &done["disks"][1]];
    assert_eq!(vda["doubt"], "its file was replaced since");
    assert_eq!(number(&vda["compared_bytes"]), 32 * MIB);
    assert_eq!(number(&vda["changed_bytes"]), 128 * KIB);
    assert_eq!(
        (&vdb["doubt"], number(&vdb["compared_bytes"])),
        (&Value::Null, 64 * KIB)
    );
    // The bitmaps are gone, so nothing is taken on trust, and nothing differs.
    let again = set_back(lab, &world, &id);
    assert_eq!(again["disks"][1]["doubt"], "its bitmap is gone");
    assert_eq!(number(&again["disks"][1]["written_bytes"]), 0);
    domain.start();
    check_old(&domain);
}

#[test]
fn one_disk_is_set_back_and_the_other_stays() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, id) = changed(lab, &world, "inplace-one");
    let ran = in_place(lab, &world, &id, &["--disk", "vdb"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    domain.start();
    domain.check("vdb", 3 * MIB, 256 * KIB, 0x22);
    domain.check("vda", MIB, 64 * KIB, 0x77);
    in_place(lab, &world, &id, &["--disk", "vdz"]).refused(1, "is not off");
    domain.destroy();
    in_place(lab, &world, &id, &["--disk", "vdz"]).refused(1, "no disk `vdz`");
}

#[test]
fn a_disk_grows_to_the_size_it_had_and_is_never_cut() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, id) = changed(lab, &world, "inplace-sizes");
    let image = domain.image("vda");
    world.tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&image), "8M"],
    );
    let done = set_back(lab, &world, &id);
    assert_eq!(number(&done["disks"][0]["changed_bytes"]), 256 * KIB);
    domain.start();
    check_old(&domain);
    domain.destroy();
    world.tool(
        "qemu-img",
        &["resize", "-q", "-f", "qcow2", text(&image), "40M"],
    );
    let refused = in_place(lab, &world, &id, &[]);
    refused.refused(1, "41943040 bytes, and had 33554432");
    assert!(refused.err.contains("hint"), "{refused:?}");
    assert_eq!(leftovers(&domain), [""; 0]);
}

#[test]
fn a_disk_that_was_shrunk_and_grown_back_is_compared_whole() {
    let lab = Lab::shared();
    let world = World::new();
    let domain = lab.light("inplace-shrunk", &[("vda", 32 * MIB), ("vdb", 32 * MIB)]);
    domain.write("vda", 0, 32 * MIB, 0x11);
    domain.write("vdb", 0, 24 * MIB, 0x22);
    let id = snapshot::take(lab, &world, &domain);
    for (disk, shorter) in [("vda", 32 * MIB - 64 * KIB), ("vdb", 23 * MIB)] {
        let image = domain.image(disk);
        for size in [shorter, 32 * MIB] {
            let size = format!("{size}B");
            domain.virsh(&["blockresize", domain.name(), text(&image), &size]);
        }
    }
    domain.check("vdb", 23 * MIB, MIB, 0);
    domain.destroy();
    let done = set_back(lab, &world, &id);
    for disk in 0..2 {
        let disk = &done["disks"][disk];
        let doubt = disk["doubt"].as_str().expect("a doubt");
        assert!(doubt.contains("shrunk"), "{done}");
        assert_eq!(number(&disk["compared_bytes"]), 32 * MIB, "{done}");
    }
    assert_eq!(number(&done["disks"][0]["changed_bytes"]), 64 * KIB);
    assert_eq!(number(&done["disks"][1]["changed_bytes"]), MIB);
    domain.start();
    domain.check("vda", 0, 32 * MIB, 0x11);
    domain.check("vdb", 0, 24 * MIB, 0x22);
}

#[test]
fn what_runs_or_would_go_on_from_its_memory_is_refused() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, id) = changed(lab, &world, "inplace-runs");
    domain.start();
    let refused = in_place(lab, &world, &id, &[]);
    refused.refused(1, "is not off");
    assert!(refused.err.contains("--new-ids"), "{refused:?}");
    lab.virsh(&["managedsave", domain.name()]);
    in_place(lab, &world, &id, &[]).refused(1, "saved memory");
    lab.virsh(&["managedsave-remove", domain.name()]);
    // Another program has the image open.
    let image = domain.image("vdb");
    let mut open = std::process::Command::new("qemu-nbd");
    open.args(["-f", "qcow2", "-t", "-k"])
        .arg(domain.folder().join("s"))
        .arg(&image);
    let mut open = open.spawn().expect("qemu-nbd can be run");
    while !domain.folder().join("s").exists() {
        assert!(
            open.try_wait().expect("it is ours").is_none(),
            "qemu-nbd ended"
        );
    }
    in_place(lab, &world, &id, &[]).refused(11, "vdb.qcow2");
    open.kill().expect("it runs");
    open.wait().expect("it ends");
    domain.start();
    check_new(&domain);
}

/// Runs a restore in which `qemu-img` kills it at its call number `call` of this kind.
pub fn killed(lab: &Lab, world: &World, id: &str, kind: &str, call: u32) {
    killed_then(lab, world, id, kind, call, "exit 1");
}

/// Does the same, and lets `qemu-img` go on with this shell command.
fn killed_then(lab: &Lab, world: &World, id: &str, kind: &str, call: u32, then: &str) {
    let tools: PathBuf = world.path("tools");
    let count = world.path("calls");
    drop(fs::remove_dir_all(&tools));
    drop(fs::remove_file(&count));
    fs::create_dir(&tools).expect("a folder can be made");
    let script = format!(
        "#!/bin/bash\n\
         if [ \"$1\" = {kind} ]; then\n\
           echo >> {count}\n\
           if [ $(wc -l < {count}) = {call} ]; then kill -9 $PPID; {then}; fi\n\
         fi\n\
         PATH=${{PATH#*:}} exec qemu-img \"$@\"\n",
        count = text(&count)
    );
    let tool = tools.join("qemu-img");
    fs::write(&tool, script).expect("a file can be written");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&tool, executable).expect("it is ours");
    let path = std::env::var_os("PATH").expect("there is a PATH");
    let mut command = lab.command(world, ["restore", id, "--in-place", "--yes"]);
    command.env(
        "PATH",
        format!("{}:{}", text(&tools), path.to_string_lossy()),
    );
    let status = command.status().expect("the command can be run");
    assert!(!status.success(), "it was not killed at {kind} {call}");
}

#[test]
fn a_crash_before_the_journal_changes_nothing() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, id) = changed(lab, &world, "inplace-early");
    // The overlay of the first disk is whole by then.
    killed(lab, &world, &id, "info", 2);
    assert_eq!(leftovers(&domain), [".cairn-inplace-vda.qcow2.qcow2"]);
    domain.start();
    check_new(&domain);
    domain.destroy();
    let done = set_back(lab, &world, &id);
    assert_eq!(number(&done["disks"][0]["changed_bytes"]), 128 * KIB);
    assert_eq!(leftovers(&domain), [""; 0]);
    domain.start();
    check_old(&domain);
}

#[test]
fn a_crash_after_the_journal_is_finished_by_the_next_run() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, id) = changed(lab, &world, "inplace-late");
    for (kind, call) in [("bitmap", 1), ("commit", 1), ("commit", 2)] {
        killed(lab, &world, &id, kind, call);
        assert!(leftovers(&domain).contains(&".cairn-inplace-vda.qcow2.json".to_owned()));
        let started = lab.try_virsh(&["start", domain.name()]);
        assert_ne!(
            started.code, 0,
            "half a disk must not be started: {started:?}"
        );
        let ran = in_place(lab, &world, &id, &["--disk", "vda"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains("ended midway"), "{ran:?}");
        assert_eq!(leftovers(&domain), [""; 0]);
        domain.start();
        check_old(&domain);
        domain.write("vda", MIB, 64 * KIB, 0x77);
        domain.write("vda", 20 * MIB, 64 * KIB, 0x78);
        domain.write("vdb", 3 * MIB, 64 * KIB, 0x79);
        if kind == "bitmap" {
            // A checkpoint again, so that the next round has a bitmap to rely on and remove.
            snapshot::take(lab, &world, &domain);
        }
        domain.destroy();
    }
}

#[test]
fn a_backup_of_half_a_restore_is_refused_until_it_is_finished() {
    let (lab, world) = (Lab::shared(), World::new());
    let (domain, id) = changed(lab, &world, "inplace-backup");
    killed(lab, &world, &id, "commit", 1);
    let refused = lab.cairn(&world, ["backup", "inplace-backup"]);
    refused.refused(1, "ended midway");
    assert!(
        refused.err.contains("`cairn recover inplace-backup`"),
        "{refused:?}"
    );
    let recovered = lab.cairn(&world, ["recover", "inplace-backup", "--json"]);
    assert_eq!(recovered.code, 0, "{recovered:?}");
    assert_eq!(recovered.document()["in_place"], true, "{recovered:?}");
    let ran = lab.cairn(&world, ["backup", "inplace-backup", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let then = world.json(["show", &id]);
    assert_eq!(
        ran.document()["disks"][0]["recipe"],
        then["disks"][0]["recipe"]
    );
    domain.start();
    check_old(&domain);
}

#[test]
fn a_qemu_img_that_outlives_its_restore_is_waited_for() {
    let lab = Lab::shared();
    let world = World::new();
    let (domain, id) = changed(lab, &world, "inplace-orphan");
    let (go, gone) = (world.path("go"), world.path("gone"));
    let wait = format!(
        "trap 'touch {gone}' EXIT; until [ -e {go} ]; do sleep 0.05; done; exit 1",
        go = text(&go),
        gone = text(&gone)
    );
    killed_then(lab, &world, &id, "commit", 1, &wait);
    in_place(lab, &world, &id, &[]).refused(11, "vda.qcow2.base");
    assert_ne!(lab.try_virsh(&["start", domain.name()]).code, 0);
    fs::write(&go, "").expect("a file can be written");
    wait_for("its end", || gone.exists());
    wait_for("the end of its lock", || {
        in_place(lab, &world, &id, &[]).code == 0
    });
    domain.start();
    check_old(&domain);
}
