//! Whatever is done to the files of an index, its packs bring the same answers back.

use std::fs;
use std::path::PathBuf;

use cairn_engine::id::RepositoryId;

use crate::index_world::{World, copy_folder, footer, pack};

fn files(world: &World) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(world.database())
        .expect("the index is there")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    files
}

/// A world with an index made in two steps.
fn indexed() -> World {
    let mut world = World::of_packs(30);
    drop(world.open());
    for number in 30..36 {
        world.publish(number);
    }
    drop(world.open());
    world
}

/// Whatever the index is now: no wrong answer, none missing the slow way, all well at last.
fn check_recovery(world: &World, what: &str) {
    let (index, report) = world.open_read_only();
    assert!(!report.rebuilt, "{what}: a reader rebuilds nothing");
    world.check(&index, false, what);
    world.check_anywhere(what);
    drop(index);
    let (index, _) = world.open();
    world.check(&index, false, what);
    world.check_anywhere(what);
    drop(index);
    let (index, _) = world.open();
    world.check(&index, true, what);
    assert!(!index.is_damaged(), "{what}");
    drop(index);
    let (index, report) = world.open();
    assert_eq!((report.taken_in, report.rebuilt), (0, false), "{what}");
    world.check(&index, true, what);
}

#[test]
fn a_deleted_index_is_rebuilt() {
    let world = indexed();
    fs::remove_dir_all(world.index_dir()).expect("nobody uses it");
    let (index, report) = world.open();
    assert_eq!((report.taken_in, report.rebuilt), (36, false));
    world.check(&index, true, "rebuilt");
}

#[test]
fn any_file_may_be_missing_empty_or_cut() {
    for number in 0..files(&indexed()).len() {
        let spoil: [fn(&PathBuf); 3] = [
            |path| fs::remove_file(path).expect("it is there"),
            |path| fs::write(path, b"").expect("it can be written"),
            |path| {
                let bytes = fs::read(path).expect("it can be read");
                fs::write(path, &bytes[..bytes.len() / 2]).expect("it can be written");
            },
        ];
        for (kind, spoil) in spoil.into_iter().enumerate() {
            let world = indexed();
            let path = &files(&world)[number];
            spoil(path);
            check_recovery(
                &world,
                &format!("kind {kind} of damage to {}", path.display()),
            );
        }
    }
}

#[test]
fn flipped_bits_never_give_a_wrong_answer() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let healthy = indexed();
    for round in 0..40 {
        fs::remove_dir_all(healthy.index_dir()).expect("nobody uses it");
        drop(healthy.open());
        let files = files(&healthy);
        let path = &files[random.usize(..files.len())];
        let mut bytes = fs::read(path).expect("it can be read");
        if bytes.is_empty() {
            continue;
        }
        let at = random.usize(..bytes.len());
        bytes[at] ^= 1 << random.u8(..8);
        fs::write(path, bytes).expect("it can be written");
        let what = format!(
            "seed {seed} round {round}: bit of byte {at} of {}",
            path.display()
        );
        check_recovery(&healthy, &what);
    }
}

/// Spoils blocks of entries, in place: an open index reads them, and opening one does not.
fn spoil_entries(world: &World) {
    let table = files(world)
        .into_iter()
        .max_by_key(|path| path.metadata().map_or(0, |m| m.len()));
    let table = table.expect("there is a table");
    let mut bytes = fs::read(&table).expect("it can be read");
    for byte in bytes.iter_mut().take(4096).step_by(64) {
        *byte ^= 0xff;
    }
    fs::write(&table, bytes).expect("it can be written");
}

#[test]
fn damage_met_by_a_look_up_leads_to_a_rebuild() {
    let world = indexed();
    let (index, _) = world.open();
    spoil_entries(&world);
    world.check(&index, false, "damaged under an open index");
    assert!(index.is_damaged());
    world.check_anywhere("damaged under an open index");
    drop(index);
    let (index, report) = world.open();
    assert!(report.rebuilt);
    assert_eq!(report.taken_in, 36);
    world.check(&index, true, "rebuilt");
}

#[test]
fn damage_met_while_taking_in_is_mended_at_once() {
    let mut world = indexed();
    spoil_entries(&world);
    // Every chunk of this pack is looked up, to keep the places that are known already.
    let again = pack(1000);
    world.packs.insert(again, footer(again, 0..1500));
    world.present.insert(again);
    let (index, report) = world.open();
    assert!(report.rebuilt);
    assert!(report.not_kept.is_none());
    assert_eq!(report.taken_in, 37);
    world.check(&index, true, "mended");
    drop(index);
    assert_eq!(world.open().1.taken_in, 0);
}

#[test]
fn a_damaged_index_takes_additions_all_the_same() {
    let mut world = indexed();
    let (index, _) = world.open();
    for path in files(&world)
        .iter()
        .filter(|path| path.extension().is_some_and(|k| k == "sst"))
    {
        let len = path.metadata().expect("it is there").len();
        fs::write(path, vec![0xa5; usize::try_from(len).expect("small")]).expect("it is writable");
    }
    world.check(&index, false, "damaged");
    let (pack, places) = world.publish(99);
    index.add_pack(pack, &places).expect("it fits into memory");
    let ids: Vec<_> = places.iter().map(|(id, _)| *id).collect();
    drop(index.ingest());
    let found = index.find(&ids).expect("it can be read");
    assert!(
        found.iter().all(Option::is_some),
        "additions are found, ingested or not"
    );
    drop(index);
    check_recovery(&world, "after ingesting into a damaged index");
}

#[test]
fn another_repositorys_index_is_not_used() {
    let world = indexed();
    let other = indexed();
    fs::remove_dir_all(other.index_dir()).expect("nobody uses it");
    let mut options = other.options();
    options.repository = RepositoryId::from_bytes([8; 32]);
    drop(other.open_with(options));
    fs::remove_dir_all(world.database()).expect("nobody uses it");
    copy_folder(&other.database(), &world.database());

    let (index, report) = world.open_read_only();
    assert_eq!(report.taken_in, 36, "a reader goes by the footers");
    world.check(&index, true, "another's, read-only");
    drop(index);
    let (index, report) = world.open();
    assert!(report.rebuilt);
    world.check(&index, true, "another's");
}

#[test]
fn an_older_copy_is_completed() {
    let mut world = World::of_packs(30);
    drop(world.open());
    let copy = world.dir.path().join("copy");
    copy_folder(&world.database(), &copy);
    for number in 30..35 {
        world.publish(number);
    }
    drop(world.open());
    let first = *world.present.first().expect("there are packs");
    world.present.remove(&first);
    fs::remove_dir_all(world.database()).expect("nobody uses it");
    copy_folder(&copy, &world.database());

    let (index, report) = world.open();
    assert_eq!(
        (report.taken_in, report.dropped.len(), report.rebuilt),
        (5, 1, false)
    );
    world.check(&index, true, "an older copy");
}

#[test]
fn an_index_folder_that_cannot_be_made_is_done_without() {
    let world = World::of_packs(5);
    fs::write(world.index_dir(), b"a file in the way").expect("it can be written");
    let (index, report) = world.open();
    assert_eq!(report.taken_in, 5);
    assert!(report.not_kept.is_some());
    world.check(&index, true, "without a folder");
}
