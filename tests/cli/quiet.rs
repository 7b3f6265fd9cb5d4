//! What `-q` leaves, and what a backup says of itself.

use std::fs;

use crate::world::{MIB, World, disk};

#[test]
fn quiet_deeds_say_nothing_and_quiet_questions_are_answered() {
    let world = World::empty();
    world.raw("a.raw", &disk(470, 2 * MIB));
    let quiet = |args: &[&str]| {
        let ran = world.run([&["-q"], args].concat());
        assert_eq!((ran.code, &*ran.err), (0, ""), "{args:?}: {ran:?}");
        ran.out
    };
    let name = |id: &str| id.to_owned();
    for args in [
        &["init"][..],
        &["backup", "web1", "--disk", "vda=a.raw"],
        &["backup", "web1", "--disk", "vda=a.raw"],
        &["protect", "web1"],
        &["unprotect", "web1"],
        &["restore", "web1", "--disk", "vda", "--to", "b.raw"],
        &["verify"],
        &["repair"],
        &["prune", "--keep-last", "1"],
        &["gc", "--grace", "0"],
        &["backup", "web1", "--disk", "vda=a.raw"],
        &["forget", "web1", "--yes"],
        &["undelete", "web1"],
    ] {
        assert_eq!(quiet(args), "", "{args:?}");
    }
    for (args, answer) in [
        (&["snapshots"][..], "web1"),
        (&["show", "web1"], "vda"),
        (&["stats"], "snapshots"),
        (&["forget", "web1", "--dry-run"], "web1"),
        (&["prune", "--keep-last", "1", "--dry-run"], "web1"),
        (&["diff", "web1", "web1"], "differ"),
    ] {
        let said = quiet(args);
        assert!(said.contains(answer), "{args:?}: {said}");
    }
    // Who asks for a document gets it.
    let made = world.json(["-q", "backup", "web1", "--disk", "vda=a.raw"]);
    let id = name(made["snapshot"].as_str().expect("an id"));
    // What was found is said.
    let pack = &world.stored("packs")[0];
    fs::write(pack, b"nothing").expect("it can be written");
    let ran = world.run(["-q", "verify", &id]);
    assert_eq!(ran.code, 13, "{ran:?}");
    assert!(ran.out.contains("damage"), "{ran:?}");
}

#[test]
fn a_backup_says_how_long_it_took() {
    let world = World::new();
    world.raw("a.raw", &disk(471, 2 * MIB));
    let said = world.ok(["backup", "web1", "--disk", "vda=a.raw"]);
    let line = said.lines().find(|line| line.starts_with("took "));
    let line = line.unwrap_or_else(|| panic!("no time in {said}"));
    assert!(line.contains(" read, ") && line.contains("/s; "), "{line}");
    let made = world.backup("a.raw");
    assert!(made["duration_ms"].is_u64(), "{made}");
}

#[test]
fn listings_tell_what_cannot_be_forgotten() {
    let world = World::new();
    world.raw("a.raw", &disk(472, MIB));
    world.backup("a.raw");
    assert!(!world.ok(["snapshots"]).contains("protected"));
    world.ok(["protect", "web1"]);
    assert!(world.ok(["snapshots"]).contains("protected"));
    assert_eq!(world.json(["snapshots"])[0]["pinned"], false);
}
