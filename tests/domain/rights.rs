//! QEMU as a user of its own, who is taken for an enemy: what root clears up after, or restores to,
//! lies where that user can write.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::lab::{Domain, Lab};
use crate::live_backup::{backup, compare, mode};
use crate::live_interrupt::{has_job, scratch_files, slow};
use crate::restore_in_place::{changed, check_old, killed};
use crate::waiting::wait_for;
use crate::world::{MIB, Ran, World, text};

/// The user `nobody`, as every Debian numbers it.
const NOBODY: u32 = 65534;
const SECRET: &str = "only root may read and write this";

/// Runs a shell command as QEMU's user.
fn as_nobody(command: &str) -> Ran {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).uid(NOBODY).gid(NOBODY);
    Ran::of(&mut shell)
}

/// Gives a file another name; it stays the same file.
fn rename(from: &Path, to: &Path) {
    fs::hard_link(from, to).expect("it is the same file system");
    fs::remove_file(from).expect("it is there");
}

/// A file of root's that nobody else may touch.
fn victim(lab: &Lab) -> PathBuf {
    let path = lab.path("victim");
    fs::write(&path, SECRET).expect("the lab's folder can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    path
}

#[track_caller]
fn assert_untouched(victim: &Path) {
    let found = fs::read_to_string(victim).expect("it is there");
    assert_eq!(found, SECRET);
    let found = fs::metadata(victim).expect("it is there");
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o600));
}

/// The only run that there is: its folder and its record.
fn run(lab: &Lab) -> (PathBuf, PathBuf) {
    let records = fs::read_dir(lab.path("run/runs")).expect("it is there");
    let records: Vec<PathBuf> = records.flatten().map(|entry| entry.path()).collect();
    let [record] = &*records else {
        panic!("there are {records:?}");
    };
    let name = record.file_stem().expect("it has a name");
    (lab.path("run").join(name), record.clone())
}

/// Begins a backup and kills it while its job is at work.
fn begin_and_kill(lab: &Lab, world: &World, domain: &Domain<'_>) -> (PathBuf, PathBuf) {
    let mut child = slow(lab, world, domain.name());
    wait_for("the job", || has_job(lab, domain));
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    run(lab)
}

#[track_caller]
fn recovered(lab: &Lab, world: &World, domain: &Domain<'_>, code: i32) -> (Value, String) {
    let ran = lab.cairn(world, ["recover", domain.name(), "--json"]);
    assert_eq!(ran.code, code, "{ran:?}");
    (ran.document(), ran.err)
}

/// All ways of a backup, where QEMU runs as `nobody` and libvirt says so or does not.
fn back_up_in(lab: &Lab, is_said: bool) {
    let world = World::new();
    let domain = lab.light("given", &[("vda", 64 * MIB)]);
    let xml = domain.virsh(&["dumpxml", "given"]);
    assert_eq!(xml.contains("<label>+65534:"), is_said, "{xml}");
    domain.write("vda", MIB, 8 * MIB, 0x11);
    assert_eq!(mode(&backup(lab, &world, &["given"])), ("full", ""));
    domain.write("vda", 16 * MIB, 8 * MIB, 0x22);
    let mut child = slow(lab, &world, "given");
    wait_for("the job", || has_job(lab, &domain));
    let (folder, record) = run(lab);
    let found = |path: &Path| {
        let found = fs::symlink_metadata(path).expect("it is there");
        (found.uid(), found.mode() & 0o777)
    };
    // The socket's folder is all that is QEMU's.
    assert_eq!(found(&folder), (NOBODY, 0o750));
    assert_eq!(found(&record), (0, 0o600));
    for closed in ["runs", "domains"] {
        let closed = lab.path("run").join(closed);
        assert_eq!(found(&closed), (0, 0o700));
        assert_ne!(as_nobody(&format!("ls {}", text(&closed))).code, 0);
    }
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(!folder.exists() && !record.exists());
    compare(&world, &domain, "vda");
    domain.write("vda", 24 * MIB, MIB, 0x33);
    let by_overlay = backup(lab, &world, &["given", "--mode", "snapshot"]);
    assert_eq!(mode(&by_overlay), ("incremental", ""));
    compare(&world, &domain, "vda");
    domain.write("vda", 30 * MIB, MIB, 0x44);
    domain.destroy();
    assert_eq!(mode(&backup(lab, &world, &["given"])), ("incremental", ""));
    domain.start();
    compare(&world, &domain, "vda");
}

#[test]
fn a_confined_qemu_of_another_user_is_backed_up_in_every_way() {
    back_up_in(&Lab::start_confined_as("nobody"), true);
}

#[test]
fn whom_qemu_runs_as_is_found_where_domains_do_not_say_it() {
    back_up_in(&Lab::start_as("nobody"), false);
}

#[test]
fn records_of_qemus_user_are_not_believed() {
    let (lab, world) = (Lab::start_confined_as("nobody"), World::new());
    let victim = victim(&lab);
    let domain = lab.light("forged", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, 24 * MIB, 0x11);
    let (folder, record) = begin_and_kill(&lab, &world, &domain);
    let drawn = folder.file_name().and_then(|name| name.to_str());
    let drawn = drawn.expect("it has a name");
    let kept = fs::read(&record).expect("it is there");
    let mut forged: Value = serde_json::from_slice(&kept).expect("it is JSON");
    forged["scratch"] = json!([victim]);
    // Whoever names the daemon names a program that root runs.
    let ran = lab.path("ran");
    let program = lab.path("program");
    fs::write(&program, format!("#!/bin/sh\ntouch {}\n", text(&ran))).expect("it is written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut far = forged.clone();
    far["remote"] = json!({
        "uri": format!("qemu+ssh://h/system?command={}", text(&program)),
        "folder": format!("/run/cairn/{drawn}"),
        "mark": format!("/run/cairn/{drawn}/nbd.sock"),
    });
    let plant = |record: &Value| {
        let planted = lab.path("planted");
        fs::write(&planted, record.to_string()).expect("it is written");
        let (planted, folder) = (text(&planted), text(&folder));
        let line = format!("cd {folder} && cp {planted} new && mv new run.json");
        assert_eq!(as_nobody(&line).code, 0, "QEMU's user can write there");
    };
    for record in [&forged, &far] {
        plant(record);
        let (document, _) = recovered(&lab, &world, &domain, 0);
        let cleared = u64::from(folder.exists());
        assert_eq!(cleared, 0, "{document}");
        assert_untouched(&victim);
        assert!(!ran.exists(), "root ran a program of QEMU's user");
        assert_eq!((has_job(&lab, &domain), scratch_files(&domain)), (false, 0));
        // Where there is no record beside, as an earlier version left it.
        fs::create_dir(&folder).expect("it was removed");
        chown(&folder, Some(NOBODY), None).expect("root may");
        plant(record);
        let (document, said) = recovered(&lab, &world, &domain, 3);
        assert_eq!(
            (&document["runs"], &document["refused"]),
            (&json!(0), &json!(1))
        );
        assert!(
            said.contains("is not believed") && said.contains("user 65534"),
            "{said}"
        );
        assert_untouched(&victim);
        assert!(!ran.exists(), "root ran a program of QEMU's user");
        // Nor is one that root seems to have written, and that names what no run makes.
        let old = folder.join("run.json");
        chown(&old, Some(0), Some(0)).expect("root may");
        fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).expect("it is ours");
        recovered(&lab, &world, &domain, 3);
        assert_untouched(&victim);
        assert!(!ran.exists(), "root ran a program of QEMU's user");
        // It stands in no backup's way.
        backup(&lab, &world, &[domain.name()]);
        fs::remove_dir_all(&folder).expect("it is there");
        // The next round's.
        fs::create_dir(&folder).expect("it was removed");
        chown(&folder, Some(NOBODY), None).expect("root may");
        fs::write(record_of(&lab, drawn), &kept).expect("it is written");
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(record_of(&lab, drawn), private).expect("it is ours");
    }
}

fn record_of(lab: &Lab, drawn: &str) -> PathBuf {
    lab.path("run/runs").join(format!("{drawn}.json"))
}

#[test]
fn what_an_earlier_version_left_is_cleared_if_it_is_roots() {
    let (lab, world) = (Lab::start_confined_as("nobody"), World::new());
    let domain = lab.light("earlier", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, 24 * MIB, 0x11);
    let (folder, record) = begin_and_kill(&lab, &world, &domain);
    let old = folder.join("run.json");
    rename(&record, &old);
    fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let (document, _) = recovered(&lab, &world, &domain, 0);
    assert_eq!(
        (&document["runs"], &document["refused"]),
        (&json!(1), &json!(0))
    );
    assert_eq!((has_job(&lab, &domain), scratch_files(&domain)), (false, 0));
    assert!(!folder.exists());
}

/// Begins a backup that reads from below an overlay, and kills it and QEMU.
fn overlay_of_the_dead(lab: &Lab, world: &World, domain: &Domain<'_>) -> PathBuf {
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
        domain
            .virsh(&["dumpxml", domain.name()])
            .contains(".overlay")
    });
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    domain.write("vda", 8 * MIB, MIB, 0x55);
    domain.kill();
    let entries = fs::read_dir(domain.folder())
        .expect("it is there")
        .flatten();
    let mut paths = entries.map(|entry| entry.path());
    let overlay = paths.find(|path| path.extension().is_some_and(|end| end == "overlay"));
    overlay.expect("it is beside the image")
}

#[test]
fn an_overlay_is_committed_into_its_image_whatever_its_header_says() {
    let (lab, world) = (Lab::start_confined_as("nobody"), World::new());
    let victim = victim(&lab);
    let domain = lab.light("header", &[("vda", 64 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    let overlay = overlay_of_the_dead(&lab, &world, &domain);
    // As whoever took QEMU over could have written it.
    let rebased = ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b"];
    world.tool(
        "qemu-img",
        &[&rebased[..], &[text(&victim), text(&overlay)]].concat(),
    );
    // The image's name may stand for another file by now.
    let (image, kept) = (domain.image("vda"), domain.folder().join("kept"));
    rename(&image, &kept);
    symlink(&victim, &image).expect("links can be made");
    let refused = lab.cairn(&world, ["recover", "header"]);
    refused.refused(1, "another file");
    assert_untouched(&victim);
    fs::remove_file(&image).expect("it is there");
    rename(&kept, &image);
    recovered(&lab, &world, &domain, 0);
    assert_untouched(&victim);
    assert!(!overlay.exists());
    domain.start();
    domain.check("vda", MIB, MIB, 0x11);
    domain.check("vda", 8 * MIB, MIB, 0x55);
}

#[test]
fn journals_and_names_beside_disks_are_roots_own() {
    let (lab, world) = (Lab::start_confined_as("nobody"), World::new());
    let victim = victim(&lab);
    let (domain, id) = changed(&lab, &world, "journal");
    let folder = domain.folder();
    let at = |name: &str| folder.join(name);
    chown(&folder, Some(NOBODY), None).expect("root may");
    // A link where the journal will be: what it points to stays.
    let journal = at(".cairn-inplace-vda.qcow2.json");
    symlink(&victim, &journal).expect("links can be made");
    let in_place = || lab.cairn(&world, ["restore", &id, "--in-place", "--yes"]);
    in_place().refused(1, "symbolic link");
    assert_untouched(&victim);
    fs::remove_file(&journal).expect("it is there");
    killed(&lab, &world, &id, "commit", 1);
    let recover = || lab.cairn(&world, ["recover", "journal"]);
    // A journal of QEMU's user.
    chown(&journal, Some(NOBODY), None).expect("root may");
    recover().refused(1, "user 65534");
    lab.cairn(&world, ["backup", "journal"])
        .refused(1, "user 65534");
    chown(&journal, Some(0), None).expect("root may");
    // One that names a disk which is not the domain's.
    let kept = fs::read(&journal).expect("it is there");
    let mut forged: Value = serde_json::from_slice(&kept).expect("it is JSON");
    let disks = forged["disks"].as_array_mut().expect("it has disks");
    disks.push(json!({"path": victim, "format": "raw", "bitmaps": []}));
    fs::write(&journal, forged.to_string()).expect("it is ours");
    recover().refused(1, "no disk of the domain");
    fs::write(&journal, &kept).expect("it is ours");
    // An overlay of that user's, and a link in place of the half restored disk.
    let overlay = at(".cairn-inplace-vda.qcow2.qcow2");
    chown(&overlay, Some(NOBODY), None).expect("root may");
    recover().refused(1, "user 65534");
    chown(&overlay, Some(0), None).expect("root may");
    let (base, moved) = (at(".cairn-inplace-vda.qcow2.base"), at("moved"));
    rename(&base, &moved);
    symlink(&victim, &base).expect("links can be made");
    recover().refused(1, "symbolic link");
    assert_untouched(&victim);
    fs::remove_file(&base).expect("it is there");
    rename(&moved, &base);
    let ran = recover();
    assert_eq!(ran.code, 0, "{ran:?}");
    domain.start();
    check_old(&domain);
    assert_untouched(&victim);
}

#[test]
fn restores_follow_no_link_of_another_user() {
    let (lab, world) = (Lab::start_confined_as("nobody"), World::new());
    let victim = victim(&lab);
    let domain = lab.light("linked", &[("vda", 16 * MIB)]);
    backup(&lab, &world, &["linked"]);
    let folder = lab.path("theirs");
    fs::create_dir(&folder).expect("the folder is new");
    chown(&folder, Some(NOBODY), None).expect("root may");
    let link = folder.join("vda.raw");
    symlink(&victim, &link).expect("links can be made");
    lchown(&link, Some(NOBODY), None).expect("root may");
    let to = format!("{}/", text(&folder));
    for target in [&*to, text(&link)] {
        let args = [
            "restore", "linked", "--disk", "vda", "--to", target, "--force",
        ];
        let refused = lab.cairn(&world, args);
        refused.refused(1, "belongs to user 65534");
        assert_untouched(&victim);
    }
    // A run folder of that user's is none for root.
    let mut command = lab.command(&world, ["recover", "linked"]);
    Ran::of(command.env("CAIRN_RUN_DIR", &folder)).refused(1, "belongs to user 65534");
    drop(domain);
}
