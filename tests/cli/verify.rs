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
    world.restored("web1");
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
