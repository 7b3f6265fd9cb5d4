//! The exit codes that no other file reaches: what stands in the way of a command.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use crate::mounts::Mount;
use crate::world::{MIB, Ran, World, disk};

#[test]
fn no_repository_is_10() {
    let world = World::empty();
    world.raw("a.raw", &disk(120, MIB));
    for args in [
        &["snapshots"][..],
        &["backup", "web1", "--disk", "vda=a.raw"],
        &["restore", "web1", "--to", "x"],
        &["verify"],
        &["stats"],
        &["forget", "web1"],
    ] {
        let ran = world.run(args);
        ran.refused(10, "repository");
        assert!(ran.err.contains("cairn init"), "{ran:?}");
    }
    assert!(!world.repository().exists(), "looking makes nothing");
    let mut none = world.command(["snapshots"]);
    Ran::of(none.env_remove("CAIRN_REPOSITORY")).refused(2, "CAIRN_REPOSITORY");
    world
        .run(["-r", "s3://bucket/x", "snapshots"])
        .refused(2, "s3://");
}

#[test]
fn a_newer_format_is_12() {
    let world = World::new();
    let config = world.repository().join("config");
    let text = fs::read_to_string(&config).expect("config is text");
    let mut settings: serde_json::Value = serde_json::from_str(&text).expect("config is JSON");
    settings["format"] = 2.into();
    fs::write(&config, settings.to_string()).expect("config can be written");
    world.run(["snapshots"]).refused(12, "config");
    settings["format"] = 1.into();
    settings["incompatible"] = serde_json::json!(["teleport"]);
    fs::write(&config, settings.to_string()).expect("config can be written");
    world.run(["snapshots"]).refused(12, "teleport");
}

#[test]
fn damaged_settings_are_13() {
    let world = World::new();
    let config = world.repository().join("config");
    fs::write(config, "{\"format\":").expect("config can be written");
    world.run(["snapshots"]).refused(13, "config");
}

#[test]
fn a_full_disk_is_1_and_publishes_nothing() {
    let world = World::empty();
    let _small = Mount::small(&world.path("small"), 4 * MIB);
    let repository = world.path("small/repository");
    let run = |args: &[&str]| {
        let mut command = world.command(args);
        Ran::of(command.env("CAIRN_REPOSITORY", &repository))
    };
    let made = run(&["init"]);
    world.raw("a.raw", &disk(121, 24 * MIB));
    let full = run(&["backup", "web1", "--disk", "vda=a.raw"]);
    let after = run(&["snapshots", "--json"]);
    world.raw("b.raw", &disk(122, MIB / 2));
    let smaller = run(&["backup", "web1", "--disk", "vda=b.raw"]);
    assert_eq!(made.code, 0, "{made:?}");
    full.refused(1, "no space left");
    assert!(full.err.contains("make room"), "{full:?}");
    assert_eq!(after.out.trim(), "[]", "{after:?}");
    assert_eq!(smaller.code, 0, "{smaller:?}");
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    let world = World::empty();
    let ran = world.run(["-r", "/proc/cairn", "init"]);
    ran.refused(1, "/proc/cairn");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let world = World::new();
    let mut command = world.command(["completions", "bash"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be run");
    let mut some = [0; 16];
    let mut out = child.stdout.take().expect("it is piped");
    out.read_exact(&mut some).expect("there is a script");
    drop(out);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn errors_are_one_line_with_a_hint_at_most() {
    let world = World::empty();
    let ran = world.run(["snapshots"]);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 2, "{ran:?}");
    assert!(
        lines[0].starts_with("cairn: ") && lines[1].starts_with("hint: "),
        "{ran:?}"
    );
}

#[test]
fn stdout_that_cannot_be_written_fails() {
    let world = World::new();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("it is there");
    let mut command: Command = world.command(["stats"]);
    let status = command.stdout(full).status().expect("it can be run");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn failures_are_documents_where_documents_are_asked_for() {
    let world = World::new();
    world.raw("a.raw", &disk(129, MIB));
    let failed = |args: &[&str], code: i32, class: &str| {
        let ran = world.run([args, &["--json"]].concat());
        assert_eq!(ran.code, code, "{ran:?}");
        let error = &ran.document()["error"];
        assert_eq!(error["class"], class, "{ran:?}");
        let message = error["message"].as_str().expect("a message");
        assert!(ran.err.contains(message), "{ran:?}");
        if let Some(hint) = error["hint"].as_str() {
            assert!(ran.err.contains(&format!("hint: {hint}")), "{ran:?}");
        }
    };
    failed(&["show", "web1"], 1, "not_found");
    failed(&["-r", "nowhere", "snapshots"], 10, "not_found");
    failed(&["backup"], 2, "usage");
    failed(&["no-such-command"], 2, "usage");
    failed(&["restore", "web1"], 2, "usage");
    failed(&["forget", "a@b@c@"], 2, "usage");
    failed(&["backup", "web1", "--disk", "vda=no.raw"], 1, "not_found");
    // What is asked for is printed as it is, and nothing else.
    let help = world.run(["snapshots", "--help", "--json"]);
    assert_eq!(help.code, 0, "{help:?}");
    assert!(help.out.contains("Usage:"), "{help:?}");
}
