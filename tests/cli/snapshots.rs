//! `cairn snapshots` and `cairn show`, and how snapshots are named.

use crate::world::{MIB, World, disk, edit};

#[test]
fn snapshots_are_listed_oldest_first() {
    let world = World::new();
    let mut bytes = disk(30, 2 * MIB);
    world.raw("a.raw", &bytes);
    world.ok(["backup", "web1", "--disk", "vda=a.raw", "--tag", "n=1"]);
    world.ok(["backup", "db", "--disk", "vda=a.raw"]);
    edit(31, &mut bytes);
    world.raw("a.raw", &bytes);
    world.ok(["backup", "web1", "--disk", "vda=a.raw", "--tag", "n=2"]);

    let all = world.json(["snapshots"]);
    let vms: Vec<_> = (0..3).map(|number| all[number]["vm"].clone()).collect();
    assert_eq!(vms, ["web1", "db", "web1"]);
    for snapshot in all.as_array().expect("a list") {
        for field in ["id", "vm", "time", "parent", "disks", "tags"] {
            assert!(snapshot.get(field).is_some(), "no {field}: {snapshot}");
        }
        assert_eq!(snapshot["disks"][0]["target"], "vda");
        assert_eq!(snapshot["disks"][0]["size"], 2 * MIB);
    }
    let of_one = world.json(["snapshots", "web1"]);
    let tags: Vec<_> = (0..2)
        .map(|number| of_one[number]["tags"]["n"].clone())
        .collect();
    assert_eq!(tags, ["1", "2"]);
    assert_eq!(of_one.as_array().map(Vec::len), Some(2));

    let table = world.ok(["snapshots"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.starts_with("ID "), "{table}");
}

#[test]
fn show_says_everything_about_one() {
    let world = World::new();
    world.raw("a.raw", &disk(32, MIB));
    let done = world.backup("a.raw");
    let shown = world.json(["show", "web1"]);
    assert_eq!(shown["id"], done["snapshot"]);
    assert_eq!(shown["disks"][0]["recipe"], done["disks"][0]["recipe"]);
    for field in [
        "id", "vm", "time", "parent", "disks", "tags", "host", "program",
    ] {
        assert!(shown.get(field).is_some(), "no {field}: {shown}");
    }
    let text = world.ok(["show", "web1"]);
    assert!(
        text.contains(done["snapshot"].as_str().expect("an id")),
        "{text}"
    );
}

#[test]
fn a_snapshot_is_named_in_many_ways() {
    let world = World::new();
    world.raw("a.raw", &disk(33, MIB));
    let old = world.backup("a.raw")["snapshot"].clone();
    let new = world.backup("a.raw")["snapshot"].clone();
    let (old_text, new_text) = (old.as_str().expect("an id"), new.as_str().expect("an id"));
    let id = |reference: &str| world.json(["show", reference])["id"].clone();
    assert_eq!(id(old_text), old);
    assert_eq!(id(&old_text[..10]), old);
    assert_eq!(id(&format!("web1@{}", &old_text[..10])), old);
    assert_eq!(id("web1"), new);
    assert_eq!(id("web1@latest"), new);
    assert_eq!(id(&format!("web1@{}", &new_text[..10])), new);
    let time = world.json(["show", new_text])["time"].clone();
    let time = time.as_str().expect("a time");
    for length in [
        "2026-11-20".len(),
        "2026-11-20T08".len(),
        "2026-11-20T08:30".len(),
    ] {
        assert_eq!(id(&format!("web1@{}", &time[..length])), new, "{time}");
    }

    for (reference, code, saying) in [
        ("nobody", 1, "`nobody`"),
        ("web1@2001-01-01", 1, "there is no snapshot"),
        ("web1@", 2, "``"),
        ("web1@yesterday", 2, "`yesterday`"),
        ("@latest", 2, "names no VM"),
        ("web1@abc", 2, "too short"),
        ("abc", 1, "`abc`"),
    ] {
        world.run(["show", reference]).refused(code, saying);
    }
}

#[test]
fn what_guests_are_called_cannot_move_the_cursor() {
    let world = World::new();
    world.raw("a.raw", &disk(34, MIB));
    let ran = world.run(["backup", "a\u{1b}[2Jb", "--disk", "vda=a.raw"]);
    assert!(
        !ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'),
        "{ran:?}"
    );
    assert!(!world.ok(["snapshots"]).contains('\u{1b}'));
}
