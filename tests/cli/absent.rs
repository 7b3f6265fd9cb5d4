//! A place without a repository: what is there is said, and `init` is advised only where it can do
//! no harm.

use std::fs;

use crate::world::{MIB, World, disk};

#[test]
fn what_is_there_instead_of_a_repository_is_said() {
    let world = World::empty();
    let place = world.repository();
    let refused = |code: i32, saying: &[&str], never: &str| {
        for args in [
            &["snapshots"][..],
            &["verify"],
            &["restore", "a", "--to", "b"],
        ] {
            let ran = world.run(args);
            ran.refused(code, "repository");
            for text in saying {
                assert!(ran.err.contains(text), "no `{text}`: {ran:?}");
            }
            assert!(never.is_empty() || !ran.err.contains(never), "{ran:?}");
        }
    };
    refused(10, &["no such folder", "cairn init"], "");
    fs::write(&place, "x").expect("a file can be made");
    refused(10, &["it is no folder"], "cairn init");
    fs::remove_file(&place).expect("it can be removed");
    fs::create_dir(&place).expect("a folder can be made");
    refused(10, &["the folder is empty", "mounted"], "");
    fs::write(place.join("letter"), "dear").expect("a file can be made");
    refused(10, &["something else"], "cairn init");
}

#[test]
fn a_folder_above_that_is_empty_may_lack_its_disk() {
    let world = World::empty();
    fs::create_dir(world.path("mnt")).expect("a folder can be made");
    let ran = world.run(["-r", "mnt/backup", "snapshots"]);
    ran.refused(10, "no such folder");
    assert!(
        ran.err.contains("mnt is empty: is a disk to be mounted"),
        "{ran:?}"
    );
}

#[test]
fn a_repository_close_by_is_named() {
    let world = World::new();
    let near = world.repository().display().to_string();
    for place in [".", "repositori", "repository/packs", "repository/packs/no"] {
        let ran = world.run(["-r", place, "snapshots"]);
        assert_eq!(ran.code, 10, "{place}: {ran:?}");
        let named = near.strip_suffix("repository").expect("its name");
        let is_named = ran.err.contains("there is one at ") && ran.err.contains("repository");
        assert!(is_named, "{place}, {named}: {ran:?}");
        assert!(!ran.err.contains("cairn init"), "{place}: {ran:?}");
    }
}

#[test]
fn nobody_makes_a_new_repository_where_the_settings_are_lost() {
    for world in [World::new(), World::encrypted()] {
        world.raw("a.raw", &disk(410, MIB));
        world.backup("a.raw");
        fs::remove_file(world.repository().join("config")).expect("it can be removed");
        for args in [
            &["snapshots"][..],
            &["backup", "web1", "--disk", "vda=a.raw"],
        ] {
            let ran = world.run(args);
            ran.refused(10, "`config` is gone");
            assert!(ran.err.contains("cairn repair --config"), "{ran:?}");
        }
        let encrypt: &[&str] = match world.passphrase {
            Some(_) => &["init", "--encrypt"],
            None => &["init"],
        };
        let ran = world.run(encrypt);
        ran.refused(1, "there is a repository");
        assert!(ran.err.contains("cairn repair --config"), "{ran:?}");
        world.ok(["repair", "--config"]);
        world.ok(encrypt.iter().take(0).chain(&["snapshots"]));
        let ran = world.run(encrypt);
        ran.refused(1, "there is a repository");
        assert!(ran.err.contains("snapshots"), "{ran:?}");
    }
}
