//! Names of snapshots: as they are printed, and what is said where they lead nowhere.

use crate::world::{MIB, World, disk};

#[test]
fn times_are_taken_as_they_are_printed() {
    let world = World::new();
    world.raw("a.raw", &disk(460, MIB));
    let first = world.dated("web1", "a.raw", "2026-11-20T08:30:05.7Z", None);
    let second = world.dated("web1", "a.raw", "2026-11-20T08:30:06.2Z", None);
    let listed = world.ok(["snapshots"]);
    assert!(listed.contains("2026-11-20 08:30:05"), "{listed}");
    for (name, id) in [
        ("web1@2026-11-20 08:30:05", &first),
        ("web1@2026-11-20T08:30:05", &first),
        ("web1@2026-11-20T08:30:05.7Z", &first),
        ("web1@2026-11-20 08:30:06", &second),
        ("web1@2026-11-20", &second),
    ] {
        assert_eq!(world.json(["show", name])["id"], **id, "{name}");
    }
}

#[test]
fn a_name_that_leads_nowhere_is_told_what_may_be_meant() {
    let world = World::new();
    world.raw("a.raw", &disk(461, MIB));
    let id = world.backup("a.raw")["snapshot"]
        .as_str()
        .expect("an id")
        .to_owned();
    for (name, said) in [
        ("wbe1", "is `web1` meant?"),
        ("web2@latest", "is `web1` meant?"),
        ("nothing-like-it", "cairn snapshots"),
        ("web1@2001-01-01", "`cairn snapshots web1`"),
        ("0f", "at least 4 digits"),
    ] {
        let ran = world.run(["show", name]);
        ran.refused(1, &format!("there is no snapshot `{name}`"));
        assert!(ran.err.contains(said), "no `{said}`: {ran:?}");
    }
    world.ok(["forget", &id]);
    for name in [&*id, "web1", "web1@latest"] {
        let ran = world.run(["restore", name, "--to", "x"]);
        ran.refused(1, "is forgotten");
        let hint = format!("`cairn undelete {name}` brings it back");
        assert!(ran.err.contains(&hint), "{ran:?}");
    }
    world.ok(["undelete", "web1"]);
    world.ok(["show", "web1"]);
}
