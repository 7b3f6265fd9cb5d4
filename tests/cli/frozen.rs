//! The frozen repositories of `tests/fixtures/`: whole, and with every kind of damage, as the
//! command sees them. What must come of each is in the tables beside them.
//!
//! `tests/engine/frozen/` made them. They are never made anew: what reads them differently reads
//! the user's repositories differently.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::world::{PASSPHRASE, Ran, World, copy_tree};

/// A disk of a snapshot, by the table of what is whole.
struct Disk {
    /// The snapshot as the tables call it, such as `web1-2`.
    alias: String,
    snapshot: String,
    target: String,
    size: u64,
    sha256: String,
    recipe: String,
}

/// What must come of a damage, by the table of it.
struct Damage {
    name: String,
    snapshots: i32,
    /// The snapshots that are listed.
    listed: Vec<String>,
    verify: i32,
    /// What must be said: texts that follow one another in one line.
    says: Vec<Vec<String>>,
    /// Disks that cannot be restored, with exit codes.
    lost: BTreeMap<String, i32>,
}

fn fixtures() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().expect("the package lies in the workspace");
    root.join("tests/fixtures/format-1")
}

/// Returns the rows of a table about a repository, without its name.
fn rows(table: &str, repository: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(fixtures().join(table)).expect("there is a table");
    let rows = text.lines().filter_map(|line| {
        let row = line.strip_prefix(repository)?.strip_prefix('/')?;
        Some(row.split('|').map(|cell| cell.trim().to_owned()).collect())
    });
    rows.collect()
}

fn disks(repository: &str) -> Vec<Disk> {
    let rows = rows("healthy.txt", repository).into_iter();
    let disks = rows.map(|row| match row.as_slice() {
        [alias, snapshot, target, size, sha256, recipe] => Disk {
            alias: alias.clone(),
            snapshot: snapshot.clone(),
            target: target.clone(),
            size: size.parse().expect("a size"),
            sha256: sha256.clone(),
            recipe: recipe.clone(),
        },
        row => panic!("{row:?}"),
    });
    disks.collect()
}

fn damages(repository: &str) -> Vec<Damage> {
    let code = |text: &str| text.parse().expect("an exit code");
    let list = |text: &str, by: &str| -> Vec<String> {
        let parts = text.split(by).map(|part| part.trim().to_owned());
        parts.filter(|part| part != "-").collect()
    };
    let rows = rows("damage.txt", repository).into_iter();
    let damages = rows.map(|row| match row.as_slice() {
        [name, snapshots, listed, verify, says, lost] => Damage {
            name: name.clone(),
            snapshots: code(snapshots),
            listed: list(listed, " "),
            verify: code(verify),
            says: (list(says, "; ").iter().map(|text| list(text, "…"))).collect(),
            lost: (list(lost, ", ").iter())
                .map(|text| {
                    let (disk, exit) = text.split_once(' ').expect("a disk and an exit code");
                    (disk.to_owned(), code(exit))
                })
                .collect(),
        },
        row => panic!("{row:?}"),
    });
    damages.collect()
}

/// Returns a copy of a repository, in a folder of its own.
fn world(repository: &str) -> World {
    let world = World::empty();
    copy_tree(&fixtures().join(repository), &world.repository());
    // Empty folders are not kept.
    for folder in ["keys", "gc", "locks", "tmp"] {
        fs::create_dir_all(world.repository().join(folder)).expect("folders can be made");
    }
    world
}

/// Lays a damage over a copy of a repository.
fn lay_over(world: &World, damage: &Path) {
    let list = damage.join("deleted");
    let deleted = fs::read_to_string(&list).unwrap_or_default();
    for path in deleted.lines() {
        fs::remove_file(world.repository().join(path)).expect("it is there");
    }
    copy_tree(damage, &world.repository());
    drop(fs::remove_file(world.repository().join("deleted")));
}

fn run(world: &World, repository: &str, args: &[&str]) -> Ran {
    let mut command = world.command(args);
    if repository == "encrypted" {
        command.env("CAIRN_PASSWORD", PASSPHRASE);
    }
    let ran = Ran::of(&mut command);
    assert!(!ran.err.contains("panicked"), "{args:?}: {ran:?}");
    ran
}

/// Restores a disk; if that ends well, its bytes must be the right ones.
fn restore(world: &World, repository: &str, disk: &Disk) -> Ran {
    let args = ["restore", &disk.snapshot, "--disk", &disk.target];
    let ran = run(world, repository, &[&args[..], &["--to", "out"]].concat());
    let out = world.path("out");
    assert_eq!(out.exists(), ran.code == 0, "{ran:?}");
    if ran.code == 0 {
        let size = out.metadata().expect("it was restored").len();
        let hash = world.tool("sha256sum", &["out"]);
        assert_eq!(size, disk.size, "{}/{}", disk.alias, disk.target);
        assert!(hash.starts_with(&disk.sha256), "other bytes: {hash}");
        fs::remove_file(out).expect("it was restored");
    }
    ran
}

fn alias_of(disks: &[Disk], snapshot: &Value) -> String {
    let id = snapshot["id"].as_str().expect("an id");
    let found = disks.iter().find(|disk| disk.snapshot == id);
    found.map_or_else(|| id.to_owned(), |disk| disk.alias.clone())
}

fn listed(world: &World, repository: &str, disks: &[Disk]) -> (i32, Vec<String>) {
    let ran = run(world, repository, &["snapshots", "--json"]);
    let document = ran.document();
    let listed = document.as_array().map(Vec::as_slice);
    assert_eq!(
        listed.is_none(),
        document["error"].is_object(),
        "{document}"
    );
    let snapshots = listed.unwrap_or_default().iter();
    (ran.code, snapshots.map(|it| alias_of(disks, it)).collect())
}

/// Fails unless the texts follow one another in a line.
fn assert_says(text: &str, wanted: &[String], what: &str) {
    let has = |line: &str| {
        let mut rest = Some(line);
        for part in wanted {
            rest = rest.and_then(|rest| Some(rest.split_once(part.as_str())?.1));
        }
        rest.is_some()
    };
    assert!(text.lines().any(has), "{what}: no {wanted:?} in {text}");
}

fn check(world: &World, repository: &str, disks: &[Disk], damage: &Damage) {
    let what = format!("{repository}/{}", damage.name);
    let (code, aliases) = listed(world, repository, disks);
    assert_eq!(
        (code, &aliases),
        (damage.snapshots, &damage.listed),
        "{what}"
    );
    let verify = run(world, repository, &["verify", "--json"]);
    assert_eq!(verify.code, damage.verify, "{what}: {verify:?}");
    let mut said = verify.err.clone();
    let document = verify.document();
    let errors = document["errors"].as_array().map(Vec::as_slice);
    assert_eq!(
        errors.is_none(),
        document["error"].is_object(),
        "{document}"
    );
    for error in errors.unwrap_or_default() {
        let text = |member: &str| error[member].as_str().expect("a text").to_owned();
        said.push_str(&format!("{}: {}\n", text("object"), text("problem")));
    }
    for wanted in &damage.says {
        assert_says(&said, wanted, &what);
    }
    assert_eq!(damage.says.is_empty(), said.is_empty(), "{what}: {said}");
    for disk in disks {
        let ran = restore(world, repository, disk);
        let lost = (damage.lost.get(&format!("{}/{}", disk.alias, disk.target)))
            .or_else(|| damage.lost.get(&disk.alias))
            .or_else(|| damage.lost.get("all"));
        let wanted = match (lost, damage.listed.contains(&disk.alias)) {
            (Some(code), _) => *code,
            (None, true) => 0,
            // There is no such snapshot.
            (None, false) => 1,
        };
        let target = &disk.target;
        assert_eq!(ran.code, wanted, "{what}: {} {target}: {ran:?}", disk.alias);
    }
}

fn every_damage(repository: &str) {
    let (disks, damages) = (disks(repository), damages(repository));
    let folder = fixtures().join("damage").join(repository);
    let mut folders: Vec<String> = fs::read_dir(&folder)
        .expect("there is damage")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut names: Vec<String> = damages.iter().map(|it| it.name.clone()).collect();
    names.sort();
    assert_eq!(folders, names, "the table has a row for each folder");
    for damage in &damages {
        let world = world(repository);
        lay_over(&world, &folder.join(&damage.name));
        check(&world, repository, &disks, damage);
    }
}

#[test]
fn every_damage_of_a_plain_repository_of_format_1_is_met_as_documented() {
    every_damage("plain");
}

#[test]
fn every_damage_of_an_encrypted_repository_of_format_1_is_met_as_documented() {
    every_damage("encrypted");
}

#[test]
fn whole_repositories_of_format_1_are_read_as_ever() {
    for repository in ["plain", "encrypted"] {
        let (world, disks) = (world(repository), disks(repository));
        let healthy = Damage {
            name: "healthy".to_owned(),
            snapshots: 0,
            listed: vec!["web1-1".to_owned(), "web1-2".to_owned()],
            verify: 0,
            says: Vec::new(),
            lost: BTreeMap::new(),
        };
        check(&world, repository, &disks, &healthy);
        // What was forgotten is still there, and can be had.
        let db1 = disks.iter().find(|disk| disk.alias == "db1-1");
        let db1 = &db1.expect("it is in the table").snapshot;
        let back = run(&world, repository, &["undelete", db1]);
        assert_eq!(back.code, 0, "{back:?}");
        for disk in &disks {
            let ran = restore(&world, repository, disk);
            assert_eq!(ran.code, 0, "{ran:?}");
            let shown = run(&world, repository, &["show", &disk.snapshot, "--json"]);
            let document = shown.document();
            let shown = document["disks"].as_array().expect("disks").iter();
            let mut shown = shown.filter(|it| it["target"] == disk.target.as_str());
            let recipe = &shown.next().expect("the disk is shown")["recipe"];
            assert_eq!(*recipe, disk.recipe.as_str(), "{}", disk.alias);
        }
    }
}

/// What notes say of `web1-1` and `web1-2`, and what is in their manifests beside the disks.
#[test]
fn notes_and_files_of_format_1_are_read_as_ever() {
    for repository in ["plain", "encrypted"] {
        let (world, disks) = (world(repository), disks(repository));
        let show = |alias: &str| {
            let disk = disks.iter().find(|disk| disk.alias == alias);
            let id = &disk.expect("it is in the table").snapshot;
            run(&world, repository, &["show", id, "--json"]).document()
        };
        let (first, second) = (show("web1-1"), show("web1-2"));
        assert_eq!(first["protected"], true);
        assert_eq!(first["files"][0]["name"], "nvram");
        assert_eq!(first["domain"]["consistency"], "agent");
        assert_eq!(
            (&second["protected"], &second["pins"]),
            (&false.into(), &serde_json::json!([]))
        );
        assert_eq!(second["proofs"][0]["what"], "boot");
        assert_eq!(second["verified"]["what"], "data");
        assert_eq!(second["parent"], first["id"]);
        let forgotten = run(&world, repository, &["snapshots", "--forgotten", "--json"]);
        assert!(forgotten.out.contains("db1"), "{forgotten:?}");
    }
}

/// A backup of the same bytes stores no chunk: cuts and ids are those of the frozen bytes.
#[test]
fn what_was_stored_in_format_1_is_stored_no_second_time() {
    for repository in ["plain", "encrypted"] {
        let (world, disks) = (world(repository), disks(repository));
        for disk in disks.iter().filter(|disk| disk.alias.starts_with("web1")) {
            let args = ["restore", &disk.snapshot, "--disk", &disk.target];
            let raw = format!("{}-{}.raw", disk.alias, disk.target);
            run(&world, repository, &[&args[..], &["--to", &raw]].concat());
            let source = format!("vda={raw}");
            let args = ["backup", "web2", "--disk", &source, "--json"];
            let made = run(&world, repository, &args).document();
            let made = &made["disks"][0];
            assert_eq!(made["new_chunks"], 0, "{made}");
            assert_eq!(made["recipe"], disk.recipe.as_str(), "{made}");
        }
    }
}
