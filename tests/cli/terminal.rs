//! What is printed of what a guest, a repository or a user made up: a terminal shows all of it, and
//! obeys none.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::mounts::MountedImage;
use crate::world::{MIB, Ran, World, text};

/// Names that turn the direction of writing, are not seen, or move the cursor, each with a part
/// that finds it.
const NAMES: [(&str, &str); 6] = [
    ("turned", "turned\u{202e}gpj.exe"),
    ("isolated", "isolated\u{2066}x\u{2069}"),
    ("unseen", "unseen\u{200b}\u{feff}\u{ad}"),
    ("cleared", "cleared\u{9b}2J"),
    ("escaped", "escaped\u{1b}]0;title\u{7}"),
    ("broken", "broken\nwarning: forged"),
];

/// Those of them that are no control characters.
const UNSHOWN: &str = "\u{202e}\u{2066}\u{2069}\u{200b}\u{feff}\u{ad}";

/// A file system right on the disk with files of these names, links to them, and a folder.
fn hostile() -> World {
    let world = World::new();
    let image = world.path("disk.raw");
    let file = File::create(&image).expect("an image can be made");
    file.set_len(20 * MIB).expect("an image can grow");
    world.tool("mkfs.ext4", &["-qF", text(&image)]);
    let mounted = MountedImage::new(&image, &world.path("mounted"), &[]);
    for (plain, name) in NAMES {
        fs::write(mounted.path.join(name), plain).expect("a file can be made");
        let link = mounted.path.join(format!("link-{plain}"));
        std::os::unix::fs::symlink(name, link).expect("a link can be made");
    }
    drop(mounted);
    world
}

/// Fails if a terminal would obey anything of this.
#[track_caller]
fn assert_plain(ran: &Ran) {
    for text in [&ran.out, &ran.err] {
        let obeyed = |c: &char| c.is_control() && *c != '\n' || UNSHOWN.contains(*c);
        let bad = text.chars().find(obeyed);
        assert_eq!(bad, None, "{ran:?}");
        assert!(
            !text.lines().any(|line| line.starts_with("warning: forged")),
            "{ran:?}"
        );
    }
}

#[test]
fn files_of_a_guest_are_shown_and_json_has_their_names() {
    let world = hostile();
    world.backup("disk.raw");
    for args in [
        &["ls", "web1:vda/"][..],
        &["ls", "-l", "web1:vda/"],
        &["ls", "-lR", "web1:vda/"],
        &["find", "web1", "**"],
        &["find", "-l", "web1:vda", "*"],
    ] {
        let ran = world.run(args);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_plain(&ran);
        for (plain, _) in NAMES {
            assert!(
                ran.out.contains(&format!("{plain}\u{fffd}")),
                "{plain}: {ran:?}"
            );
        }
    }
    let listed = world.json(["ls", "web1:vda/"]);
    let entries = listed["entries"].as_array().expect("a list");
    for (_, name) in NAMES {
        let path = format!("/{name}");
        assert!(
            entries.iter().any(|entry| entry["path"] == *path),
            "{name:?}"
        );
    }
    for (_, name) in NAMES {
        // A file is no folder, and the error names it.
        let below = format!("web1:vda/{name}/x");
        for args in [&["ls", &below][..], &["get", &below, "out"]] {
            let ran = world.run(args);
            assert_eq!(ran.code, 1, "{ran:?}");
            assert_plain(&ran);
        }
    }
}

#[test]
fn names_of_machines_and_what_was_typed_are_shown() {
    let world = World::new();
    world.raw("a.raw", &crate::world::disk(3, MIB));
    let vm = "web\u{202e}1\u{200b}";
    let ran = world.run(["backup", vm, "--disk", "vda=a.raw"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_plain(&ran);
    let listed = world.json(["snapshots"]);
    assert!(listed.to_string().contains(vm), "{listed}");
    for args in [
        &["snapshots"][..],
        &["show", vm],
        &["stats"],
        &["diff", vm, vm],
        &["verify"],
        &["prune", "--keep-last", "1", "--dry-run"],
        &["forget", vm],
        &["show", "no\u{202e}such"],
        &["restore", "no\u{9b}such", "--disk", "vda", "--to", "b.raw"],
        &["backup", "web1", "--disk", "vda=no\u{202e}such.raw"],
    ] {
        assert_plain(&world.run(args));
    }
}

#[test]
fn what_damage_names_is_shown() {
    let world = World::new();
    world.raw("a.raw", &crate::world::disk(4, MIB));
    // A domain's description that nobody should believe, in a manifest that is whole.
    let id = world.dated("web1", "a.raw", "2026-11-20T08:30:00Z", None);
    let path = world.repository().join("snapshots").join(&id);
    let manifest = fs::read_to_string(&path).expect("it is text");
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).expect("it is JSON");
    manifest["host"] = "h\u{202e}st\u{9b}2J\u{200b}".into();
    let bytes = manifest.to_string();
    fs::remove_file(&path).expect("it can be removed");
    let new = blake3::hash(bytes.as_bytes()).to_string();
    fs::write(world.repository().join("snapshots").join(&new), bytes).expect("written");
    world.clear_memory();
    let ran = world.run(["show", "web1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_plain(&ran);
    assert!(ran.out.contains("h\u{fffd}st\u{fffd}2J\u{fffd}"), "{ran:?}");
    let pack = world.stored("packs").pop().expect("there is a pack");
    let file = File::options().write(true).open(pack).expect("it opens");
    file.write_all_at(b"\x1b[2J\xe2\x80\xae", 100)
        .expect("there is space");
    let ran = world.run(["verify"]);
    assert_eq!(ran.code, 13, "{ran:?}");
    assert_plain(&ran);
}
