//! Parity from the backup that makes it to the collection that deletes it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::storage::{Area, Name};
use cairn_engine::verify::{StoredOptions, VerifyReport, verify_stored};
use jiff::Timestamp;

use crate::parity::World;
use crate::support::gc::{collect, collect_but, with_gc_options};
use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, assert_clean, edit, seed, verify_for};

/// Returns how many packs there are, and fails unless just these have parity.
fn packs_with_parity(repository: &TestRepository) -> usize {
    let opened = repository.open();
    let list = |area| opened.storage().list(area).expect("listed");
    let packs = list(Area::Packs).into_iter().map(|listed| listed.name);
    let wanted: Vec<Name> = packs
        .map(|name| match name {
            Name::Pack(pack) => Name::Parity(pack),
            other => panic!("{other} is no pack"),
        })
        .collect();
    let parity = list(Area::Parity).into_iter().map(|listed| listed.name);
    assert!(parity.eq(wanted.iter().copied()), "{wanted:?}");
    wanted.len()
}

fn len_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder)
        .expect("listed")
        .map(|entry| entry.expect("listed"));
    let lens = entries.map(|entry| match entry.path().is_dir() {
        true => len_of(&entry.path()),
        false => entry.metadata().expect("it is there").len(),
    });
    lens.sum()
}

#[test]
fn parity_comes_and_goes_with_its_pack() {
    let world = World::with(None, seed(), 700_000, 10);
    let repository = world.repository.open();
    let mut random = fastrand::Rng::with_seed(seed());
    let mut bytes = world.bytes.clone();
    let mut made = vec![world.id];
    for _ in 0..3 {
        edit(&mut random, &mut bytes);
        let done = world
            .repository
            .backup(MemorySource::new(bytes.clone()), None);
        made.push(done.expect("backs up").snapshot);
    }
    let before = packs_with_parity(&world.repository);
    repository.forget(&made[..3]).expect("forgets");

    let at = |folder: &str| len_of(&world.repository.path().join(folder));
    let stored = at("packs") + at("parity");
    let now = Timestamp::now();
    let survey = with_gc_options(now, 0.0, |options| {
        cairn_engine::gc::Collection::begin(&repository, options)
            .and_then(cairn_engine::gc::Collection::survey)
    });
    let survey = survey.expect("it can be surveyed");
    let report = collect(&repository, now).expect("collects");
    assert!(
        report.deleted_packs > 0 && report.written_packs > 0,
        "{report:?}"
    );
    assert_eq!(survey.deleted_bytes, report.deleted_bytes);
    assert_eq!(
        at("packs") + at("parity"),
        stored + report.written_bytes - report.deleted_bytes
    );
    let after = packs_with_parity(&world.repository);
    assert!(after <= before, "{before} packs became {after}");
    assert_clean(&world.repository.verify());
}

#[test]
fn parity_without_a_pack_goes_with_the_next_collection() {
    let world = World::with(None, seed(), 700_000, 10);
    let repository = world.repository.open();
    let stray = cairn_engine::id::PackId::from_bytes([3; 32]);
    let path = world.path(Name::Parity(stray));
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::copy(world.path(Name::Parity(world.pack)), &path).expect("copied");
    assert_clean(&world.repository.verify());
    assert!(world.repair().rebuilt.is_empty());
    let len = fs::metadata(&path).expect("it is there").len();
    let report = collect_but(&repository, Timestamp::now(), 100.0).expect("collects");
    assert_eq!((report.deleted_packs, report.deleted_bytes), (0, len));
    packs_with_parity(&world.repository);
}

#[test]
fn a_repository_without_parity_has_none() {
    let repository = TestRepository::new();
    let source = MemorySource::new(vec![7; 100_000]);
    repository.backup(source, None).expect("backs up");
    let listed = repository.open().storage().list(Area::Parity);
    assert_eq!(listed.expect("it can be listed"), []);
    assert!(!repository.path().join("parity").exists());
    assert_eq!(repository.verify().without_parity, 0);
}

/// Where its parity alone is damaged, nothing that lies in a pack is in doubt.
#[test]
fn damaged_parity_makes_no_backup_store_anything_again() {
    let repository = TestRepository::with(None, |settings| {
        *settings = small_settings();
        settings.parity_percent = Some(10);
    });
    let mut random = fastrand::Rng::with_seed(seed());
    let bytes: Vec<u8> = (0..500_000).map(|_| random.u8(..)).collect();
    let made = repository.backup(MemorySource::new(bytes.clone()), None);
    let made = made.expect("backs up").snapshot;
    let parity = repository.open().storage().list(Area::Parity);
    let parity = parity.expect("it can be listed");
    for listed in &parity {
        let path = repository.path().join(listed.name.path());
        let mut damaged = fs::read(&path).expect("it is there");
        damaged[0] ^= 1;
        fs::write(&path, damaged).expect("writable");
    }
    assert_eq!(repository.verify().faults.len(), parity.len());
    let unchanged = MemorySource::changed_since(&bytes, bytes.clone(), true);
    let again = [
        repository.backup(MemorySource::new(bytes.clone()), None),
        repository.backup(unchanged, Some(made)),
    ];
    for done in again {
        let done = done.expect("backs up");
        assert!(done.warnings.is_empty(), "{:?}", done.warnings);
        assert_eq!(done.manifest.disks[0].new_chunks, 0);
    }
    let packs = repository.open().storage().list(Area::Packs);
    assert_eq!(packs.expect("it can be listed").len(), parity.len());
}

#[test]
fn damaged_parity_comes_first_every_night_until_it_is_whole() {
    let repository = TestRepository::with(None, |settings| {
        *settings = small_settings();
        settings.parity_percent = Some(10);
    });
    let mut random = fastrand::Rng::with_seed(seed());
    let bytes = (0..500_000).map(|_| random.u8(..)).collect();
    let made = repository.backup(MemorySource::new(bytes), None);
    made.expect("backs up");
    let opened = repository.open();
    let mut parity = opened.storage().list(Area::Parity).expect("listed");
    let packs = parity.len();
    assert!(packs > 5, "{packs}");
    let parity = parity.swap_remove(random.usize(..packs)).name;
    let path = repository.path().join(parity.path());
    let whole = fs::read(&path).expect("it is there");
    let mut damaged = whole.clone();
    damaged[0] ^= 1;
    fs::write(&path, damaged).expect("writable");
    let night = || {
        let report = verify_for(&opened, Some(Duration::ZERO));
        assert!(report.faults.iter().all(|it| it.object == parity.path()));
        report.faults.len()
    };
    let first = (0..packs).find(|_| night() == 1);
    assert!(first.is_some(), "every pack has its turn");
    assert!((0..packs).all(|_| night() == 1), "it fell silent");
    fs::write(&path, whole).expect("writable");
    assert!((0..packs).all(|_| night() == 0));
}

fn stored(world: &World) -> VerifyReport {
    let storage = world.repository.open().storage().clone();
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = StoredOptions {
        max_duration: None,
        now: Timestamp::now(),
        threads: 2,
        progress: &progress,
        cancel: &cancel,
    };
    verify_stored(&storage, &world.repository.options(), &options).expect("it can be read")
}

#[test]
fn stored_parity_is_checked_without_a_key() {
    let world = World::with(Some("correct horse"), seed(), 700_000, 10);
    let report = stored(&world);
    assert_clean(&report);
    assert_eq!(report.without_parity, 0);
    let parity = Name::Parity(world.pack);
    let whole = world.read(parity);
    for at in [5, world.layout.directory_len() + 8, whole.len() - 40] {
        world.change(parity, |bytes| bytes[at] ^= 1);
        let report = stored(&world);
        let objects: Vec<_> = report.faults.iter().map(|fault| &fault.object).collect();
        assert_eq!(objects, [&parity.path()]);
        fs::write(world.path(parity), &whole).expect("writable");
    }
    fs::remove_file(world.path(parity)).expect("removed");
    let report = stored(&world);
    assert_clean(&report);
    assert_eq!(report.without_parity, 1);
}
