//! `cairn verify`, and what damage does to the other commands.

use std::fs;

use crate::world::{MIB, Ran, World, damage, disk, edit};

fn two_snapshots() -> World {
    let world = World::new();
    let mut bytes = disk(50, 4 * MIB);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    edit(51, &mut bytes);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    world
}

fn verify(world: &World, options: &[&str]) -> Ran {
    world.run(["verify", "--json"].iter().chain(options))
}

#[test]
fn what_is_whole_is_said_to_be_whole() {
    let world = two_snapshots();
    for options in [
        &[][..],
        &["--metadata-only"],
        &["--sample", "30"],
        &["web1"],
    ] {
        let ran = verify(&world, options);
        assert_eq!(ran.code, 0, "{options:?}: {ran:?}");
        let report = ran.document();
        assert_eq!(report["errors"], serde_json::json!([]));
        assert!(report["checked_bytes"].is_u64());
    }
    let everything = verify(&world, &[]).document()["checked_bytes"].as_u64();
    let packs = world.stored("packs");
    let stored: u64 = packs
        .iter()
        .map(|pack| pack.metadata().expect("there").len())
        .sum();
    assert!(
        everything.is_some_and(|checked| checked >= stored * 9 / 10),
        "{everything:?}"
    );
    assert!(world.ok(["verify"]).contains("no damage"));
    assert_eq!(world.run(["verify", "--sample", "0"]).code, 2);
}

#[test]
fn a_damaged_pack_is_named_with_what_it_hurts() {
    let world = two_snapshots();
    let packs = world.stored("packs");
    let largest = packs
        .iter()
        .max_by_key(|pack| pack.metadata().map_or(0, |meta| meta.len()));
    let largest = largest.expect("there are packs");
    damage(largest);
    let ran = verify(&world, &[]);
    assert_eq!(ran.code, 13, "{ran:?}");
    let report = ran.document();
    let error = &report["errors"][0];
    let name = largest
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    assert!(
        error["object"]
            .as_str()
            .is_some_and(|object| object.contains(name)),
        "{report}"
    );
    let hurt = &error["hurts"][0];
    assert_eq!(hurt["vm"], "web1");
    assert_eq!(hurt["target"], "vda");
    assert!(
        hurt["length"].as_u64().is_some_and(|length| length > 0),
        "{report}"
    );
    let shown = world.run(["verify"]);
    assert_eq!(shown.code, 13);
    assert!(
        shown.out.contains("damaged: ") && shown.out.contains("hurts "),
        "{shown:?}"
    );

    let restore = world.run(["restore", "web1", "--disk", "vda", "--to", "back.raw"]);
    restore.refused(13, "cannot restore disk vda");
    assert!(!world.path("back.raw").exists());
}

#[test]
fn a_missing_pack_is_missed() {
    let world = two_snapshots();
    for pack in world.stored("packs") {
        fs::remove_file(pack).expect("packs can be removed");
    }
    for options in [&[][..], &["--metadata-only"]] {
        let ran = verify(&world, options);
        assert_eq!(ran.code, 13, "{ran:?}");
        assert!(
            ran.document()["errors"]
                .as_array()
                .is_some_and(|errors| !errors.is_empty())
        );
    }
    let ran = world.run(["restore", "web1", "--disk", "vda", "--to", "back.raw"]);
    ran.refused(13, "is in no pack");
}

#[test]
fn a_damaged_manifest_hides_no_other_snapshot() {
    let world = two_snapshots();
    let newest = world.json(["show", "web1"])["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    damage(&world.repository().join("snapshots").join(&newest));
    let listed = world.run(["snapshots", "--json"]);
    assert_eq!(listed.code, 13, "{listed:?}");
    assert!(listed.err.contains(&newest[..8]), "{listed:?}");
    assert_eq!(listed.document().as_array().map(Vec::len), Some(1));
    let ran = verify(&world, &[]);
    assert_eq!(ran.code, 13, "{ran:?}");
    assert!(ran.out.contains(&newest), "{ran:?}");
    let refused = world.run(["restore", "web1", "--disk", "vda", "--to", "out.raw"]);
    refused.refused(13, &newest[..8]);
    let document = listed.document();
    world.restored(document[0]["id"].as_str().expect("an id"));
}

#[test]
fn an_index_that_is_gone_or_broken_changes_no_answer() {
    let world = two_snapshots();
    let before = world.restored("web1");
    let stats = world.json(["stats"]);
    fs::remove_dir_all(world.repository().join("index")).expect("the index is a folder");
    assert!(world.restored("web1") == before);
    assert_eq!(world.json(["stats"]), stats);
    for file in world.stored("index") {
        fs::write(file, "nonsense").expect("files can be written");
    }
    assert!(world.restored("web1") == before);
    assert_eq!(world.backup("a.raw")["disks"][0]["new_chunks"], 0);
    world.ok(["verify"]);
}

/// Verifies with no time at all, which reads one pack.
fn turn(world: &World, options: &[&str]) -> serde_json::Value {
    let ran = verify(world, &[&["--max-duration", "0"], options].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.document()
}

#[test]
fn verifies_that_are_cut_short_cover_everything_in_turn() {
    let world = two_snapshots();
    let packs = world.stored("packs").len() as u64;
    assert!(packs >= 3, "{packs}");
    for options in [&["--stored"][..], &["--threads", "4"]] {
        for number in 1..=packs + 1 {
            let report = turn(&world, options);
            let coverage = &report["coverage"];
            assert_eq!(coverage["packs"], packs);
            assert_eq!(coverage["read_packs"], 1);
            assert_eq!(coverage["never_packs"], packs.saturating_sub(number));
            assert!(coverage["oldest"].is_string());
            assert_eq!(report["references_checked"], false);
        }
    }
    let shown = world.ok(["verify", "--max-duration", "0"]);
    assert!(shown.contains("all of it was read since "), "{shown}");
    assert!(shown.contains("there was no time"), "{shown}");

    // A backup later, what is new comes first.
    let mut bytes = disk(52, 4 * MIB);
    edit(53, &mut bytes);
    world.raw("b.raw", &bytes);
    world.backup("b.raw");
    let new = world.stored("packs").len() as u64 - packs;
    assert!(new > 0);
    let metadata = verify(&world, &["--metadata-only"]).document();
    assert_eq!(metadata["coverage"]["never_packs"], new);
    let shown = world.ok(["verify", "--metadata-only"]);
    assert!(
        shown.contains("has not been read yet, the rest since"),
        "{shown}"
    );
    for number in 1..=new {
        let report = turn(&world, &[]);
        assert_eq!(report["coverage"]["never_packs"], new - number);
    }
    let report = verify(&world, &["--max-duration", "1h"]).document();
    assert_eq!(report["references_checked"], true);
    assert_eq!(report["coverage"]["read_packs"], packs + new);
}

#[test]
fn damage_is_found_in_its_turn_and_remembered_by_nobody_as_whole() {
    let world = two_snapshots();
    world.ok(["verify"]);
    let packs = world.stored("packs");
    let largest = packs
        .iter()
        .max_by_key(|pack| pack.metadata().map_or(0, |meta| meta.len()));
    damage(largest.expect("there are packs"));
    let codes: Vec<i32> = packs
        .iter()
        .map(|_| world.run(["verify", "--max-duration", "0"]).code)
        .collect();
    assert!(codes.contains(&13), "{codes:?}");
    let ran = verify(&world, &["--max-duration", "0"]);
    assert_eq!(ran.code, 13, "{ran:?}");
    assert_eq!(ran.document()["coverage"]["never_packs"], 1);
    assert!(ran.document()["errors"][0]["hurts"][0].is_object());
}

#[test]
fn stored_bytes_are_verified_without_a_passphrase() {
    let world = World::encrypted();
    world.raw("a.raw", &disk(54, 4 * MIB));
    world.backup("a.raw");
    let run = |options: &[&str]| {
        let mut command = world.command(["verify", "--stored"].iter().chain(options));
        Ran::of(command.env_remove("CAIRN_PASSWORD"))
    };
    let ran = run(&["--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.document();
    assert_eq!(report["stored_only"], true);
    assert_eq!(report["documents"], 2);
    assert_eq!(report["checked_bytes"], report["coverage"]["bytes"]);
    for area in ["packs", "snapshots", "keys"] {
        let path = world.stored(area).pop().expect("there is one");
        let whole = fs::read(&path).expect("it can be read");
        damage(&path);
        let ran = run(&[]);
        assert_eq!(ran.code, 13, "{area}: {ran:?}");
        let name = path.file_name().and_then(|name| name.to_str());
        assert!(name.is_some_and(|name| ran.out.contains(name)), "{ran:?}");
        fs::write(&path, whole).expect("it can be written");
    }
    assert_eq!(run(&[]).code, 0);
    for options in [&["web1"][..], &["--sample", "5"], &["--metadata-only"]] {
        assert_eq!(run(options).code, 2, "{options:?}");
    }
}

#[test]
fn what_was_read_whole_is_noted_with_its_snapshots() {
    let world = two_snapshots();
    let last = |number: usize| world.json(["snapshots"])[number]["verified"].clone();
    for options in [&["--metadata-only"][..], &["--sample", "30"], &["--stored"]] {
        assert_eq!(verify(&world, options).code, 0);
        assert!(last(0).is_null() && last(1).is_null(), "{options:?}");
    }
    world.ok(["verify"]);
    let first = last(0);
    assert_eq!(
        (&first["what"], &last(1)["what"]),
        (&"all chunks".into(), &first["what"])
    );
    assert!(world.ok(["show", "web1"]).contains("all chunks"));
    world.ok(["verify"]);
    assert_eq!((last(0), world.stored("notes").len()), (first, 2));
}

#[test]
fn a_note_that_cannot_be_written_fails_no_verify() {
    let world = two_snapshots();
    for snapshot in world.json(["snapshots"]).as_array().expect("a list") {
        let id = snapshot["id"].as_str().expect("an id");
        // Where its notes would be, there is a file.
        fs::write(world.repository().join("notes").join(id), "").expect("there is space");
    }
    let ran = world.run(["verify"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("cannot be noted"), "{ran:?}");
}
