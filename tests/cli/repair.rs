//! `cairn repair`: what is damaged is healed, or named.

use std::fs;
use std::path::PathBuf;

use crate::world::{MIB, Ran, World, copy_tree, damage, disk, text};

fn backed_up(world: World) -> World {
    world.raw("a.raw", &disk(60, 8 * MIB));
    world.backup("a.raw");
    world
}

fn largest(world: &World) -> PathBuf {
    let packs = world.stored("packs").into_iter();
    let largest = packs.max_by_key(|pack| pack.metadata().map_or(0, |meta| meta.len()));
    largest.expect("there are packs")
}

fn repair(world: &World, options: &[&str]) -> Ran {
    world.run(["repair", "--json"].iter().chain(options))
}

#[test]
fn what_is_whole_stays_as_it_is() {
    let world = backed_up(World::new());
    let before = world.stored("packs");
    let ran = repair(&world, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.document();
    assert_eq!(report["damaged_packs"], serde_json::json!([]));
    assert_eq!(report["written_packs"], 0);
    assert_eq!(world.stored("packs"), before);
    assert!(world.ok(["repair"]).contains("everything is whole"));
    assert_eq!(world.json(["repair", "--index"])["rebuilt_index"], true);
}

#[test]
fn the_disk_heals_what_it_still_has() {
    for world in [World::new(), World::encrypted()] {
        let world = backed_up(world);
        let pack = largest(&world);
        damage(&pack);
        let lost = repair(&world, &[]);
        assert_eq!(lost.code, 13, "{lost:?}");
        let report = lost.document();
        assert_eq!(report["set_aside"], true);
        let hurt = &report["remaining"][0]["hurts"][0];
        assert_eq!(
            (&hurt["vm"], &hurt["target"]),
            (&"web1".into(), &"vda".into())
        );
        assert!(hurt["length"].as_u64().is_some_and(|length| length > 0));
        assert!(!pack.exists());
        let name = pack.file_name().expect("a name");
        assert!(world.repository().join("damaged").join(name).exists());
        let text = world.run(["repair"]);
        assert_eq!(text.code, 13, "{text:?}");
        assert!(
            text.out.contains("lost: ") && text.out.contains("hurts "),
            "{text:?}"
        );
        assert_eq!(world.run(["verify"]).code, 13);

        let healed = repair(&world, &["--from-disk", "web1@latest:vda=a.raw"]);
        assert_eq!(healed.code, 0, "{healed:?}");
        assert_eq!(healed.document()["remaining"], serde_json::json!([]));
        world.ok(["verify"]);
        assert!(world.restored("web1") == fs::read(world.path("a.raw")).expect("the disk"));
    }
}

#[test]
fn another_repository_heals_it_and_is_left_alone() {
    let (world, other) = (backed_up(World::new()), backed_up(World::encrypted()));
    damage(&largest(&world));
    world.raw("pass", crate::world::PASSPHRASE.as_bytes());
    let from = other.repository();
    let (before, password) = (other.stored("packs"), world.path("pass"));
    let options = [
        "--from",
        text(&from),
        "--from-password-file",
        text(&password),
    ];
    let ran = repair(&world, &options);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.document()["healed"]
            .as_u64()
            .is_some_and(|healed| healed > 0)
    );
    world.ok(["verify"]);
    assert_eq!(other.stored("packs"), before);
}

#[test]
fn the_next_backup_stores_anew_what_was_lost() {
    let world = backed_up(World::new());
    damage(&largest(&world));
    assert_eq!(repair(&world, &[]).code, 13);
    world.backup("a.raw");
    world.ok(["verify"]);
    assert!(repair(&world, &[]).document()["remaining"] == serde_json::json!([]));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = backed_up(World::new());
    for options in [
        &["--from-disk", "vda"][..],
        &["--from-disk", "=a.raw"],
        &["--index", "--from-disk", "vda=a.raw"],
        &["--pack", "abc"],
    ] {
        assert_eq!(repair(&world, options).code, 2, "{options:?}");
    }
    let none = repair(&world, &["--pack", &"ab".repeat(32)]);
    assert_eq!(none.code, 1, "{none:?}");
    let none = repair(&world, &["--from", "nowhere"]);
    assert_eq!(none.document()["error"]["class"], "not_found");
    assert_eq!(none.code, 10, "{none:?}");
}

#[test]
fn a_copy_of_the_repository_has_manifests_and_notes_and_snapshots_that_are_not_here() {
    for world in [World::new(), World::encrypted()] {
        let world = backed_up(world);
        world.ok(["protect", "web1"]);
        world.ok(["backup", "web2", "--disk", "vda=a.raw"]);
        let copy = world.path("copy");
        copy_tree(&world.repository(), &copy);
        let listed = world.json(["snapshots"]);
        let [first, second] = [0, 1].map(|number| listed[number]["id"].as_str().expect("an id"));
        let folder = world.repository().join("snapshots");
        damage(&folder.join(first));
        damage(&only(&world, "notes"));
        assert_eq!(world.run(["verify"]).code, 13);
        let named = repair(&world, &[]);
        assert_eq!(named.code, 13, "{named:?}");
        assert_eq!(
            named.document()["remaining"].as_array().map(Vec::len),
            Some(2)
        );

        fs::remove_file(folder.join(second)).expect("it can be removed");
        let healed = world.run(["repair", "--from", text(&copy)]);
        assert_eq!(healed.code, 0, "{healed:?}");
        for said in ["put back: snapshots/", "put back: notes/", "not here "] {
            assert!(healed.out.contains(said), "no `{said}`: {healed:?}");
        }
        world.ok(["verify"]);
        let now = world.json(["snapshots"]);
        assert_eq!((&now[0]["id"], &now[1]), (&first.into(), &().into()));
        assert_eq!(now[0]["protected"], true);

        // The command that is told brings the other back.
        let again = repair(&world, &["--from", text(&copy)]).document();
        assert_eq!(again["healed_documents"], serde_json::json!([]));
        let absent = &again["absent_snapshots"][0];
        assert_eq!(
            (&absent["id"], &absent["vm"]),
            (&second.into(), &"web2".into())
        );
        let told = healed.out.split('`').nth(1).expect("a command");
        let args = told.split(' ').skip(1).map(|arg| match arg {
            "PATH" => "back/",
            arg => arg,
        });
        world.ok(args);
        let back = fs::read(world.path("back").join("vda.raw")).expect("it is restored");
        assert!(back == fs::read(world.path("a.raw")).expect("the disk"));
    }
}

/// Returns the only file in a folder of the repository.
fn only(world: &World, folder: &str) -> PathBuf {
    let mut stored = world.stored(folder);
    assert_eq!(stored.len(), 1, "{stored:?}");
    stored.remove(0)
}

#[test]
fn the_settings_come_back_from_the_copy_in_the_cache() {
    for world in [World::new(), World::encrypted()] {
        let world = backed_up(world);
        let config = world.repository().join("config");
        let before = fs::read(&config).expect("the settings can be read");
        assert!(world.ok(["repair", "--config"]).contains("are whole"));
        for bytes in [&b"nonsense"[..], &before[..before.len() / 2], &[]] {
            fs::write(&config, bytes).expect("they can be written");
            let refused = world.run(["snapshots"]);
            refused.refused(13, "keeps a copy of it");
            assert!(refused.err.contains("cairn repair --config"), "{refused:?}");
            assert!(
                world
                    .ok(["repair", "--config"])
                    .contains("put back: config")
            );
            assert!(fs::read(&config).expect("readable") == before);
        }
        damage(&config);
        assert_eq!(world.run(["snapshots"]).code, 13);
        fs::remove_file(&config).expect("they can be removed");
        assert_eq!(world.json(["repair", "--config"])["config"], true);
        world.ok(["verify"]);
    }
}

#[test]
fn key_slots_come_back_but_none_that_was_removed() {
    let world = backed_up(World::encrypted());
    let slot = only(&world, "keys");
    let before = fs::read(&slot).expect("the slot can be read");
    damage(&slot);
    world.run(["snapshots"]).refused(13, "keeps a copy of it");
    let done = world.json(["repair", "--config"]);
    assert_eq!(done["keys"].as_array().map(Vec::len), Some(1), "{done}");
    assert!(fs::read(&slot).expect("readable") == before);
    fs::remove_file(&slot).expect("it can be removed");
    world.ok(["repair", "--config"]);
    assert!(fs::read(&slot).expect("readable") == before);
    world.ok(["verify"]);

    world.raw("new", b"another passphrase");
    world.ok(["key", "add", "--new-password-file", "new"]);
    world.ok(["snapshots", "--password-file", "new"]);
    fs::remove_file(&slot).expect("it can be removed");
    let none = world.run(["repair", "--config", "--password-file", "new"]);
    assert!(none.out.contains("are whole") && !slot.exists(), "{none:?}");
}

#[test]
fn a_copy_that_was_changed_is_not_believed() {
    let world = backed_up(World::encrypted());
    let copies = world.path("cache").join("cairn").join("spare");
    let folder = fs::read_dir(&copies)
        .expect("there are copies")
        .flatten()
        .next();
    let copy = folder
        .expect("one repository was opened")
        .path()
        .join("config");
    let text = fs::read_to_string(&copy).expect("the copy can be read");
    fs::write(&copy, text + " ").expect("it can be written");
    damage(&world.repository().join("config"));
    let refused = world.run(["repair", "--config"]);
    assert_eq!(refused.code, 13, "{refused:?}");
    fs::remove_file(&copy).expect("it can be removed");
    let none = world.run(["repair", "--config"]);
    assert!(
        none.code == 1 && none.err.contains("keeps no copy"),
        "{none:?}"
    );
}
