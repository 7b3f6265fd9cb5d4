//! Objects that are cut, emptied, deleted, swapped, replayed, or another repository's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::format::note::Fact;
use cairn_engine::id::SnapshotId;
use cairn_engine::repository::{Repository, Snapshot};
use cairn_engine::storage::{Area, Name};
use cairn_engine::verify::{FaultKind, VerifyReport};

use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::{chain, small_settings};
use crate::support::{MemorySource, TestRepository, assert_clean, random_disk, seed};

/// A repository of two snapshots that share little.
struct World {
    repository: TestRepository,
    disks: Vec<(SnapshotId, Vec<u8>)>,
}

impl World {
    fn new(passphrase: Option<&'static str>, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let repository = TestRepository::with(passphrase, |settings| *settings = small_settings());
        let disks = (0..2).map(|_| {
            let mut bytes = random_disk(&mut random, 600_000);
            bytes[..100_000].fill_with(|| random.u8(b'a'..b'k'));
            let source = MemorySource::new(bytes.clone());
            (
                repository.backup(source, None).expect("backs up").snapshot,
                bytes,
            )
        });
        let disks = disks.collect();
        Self { repository, disks }
    }

    fn path(&self, name: Name) -> PathBuf {
        self.repository.path().join(name.path())
    }

    fn list(&self, area: Area) -> Vec<Name> {
        let listed = self
            .repository
            .open()
            .storage()
            .list(area)
            .expect("it can be listed");
        listed.into_iter().map(|listed| listed.name).collect()
    }

    /// Returns what verify says, after a look at what restores say: right bytes, or damage.
    fn check(&self, what: &str) -> VerifyReport {
        let repository = self.repository.open();
        self.check_restores(&repository, what);
        // Twice: the first session may have changed the index.
        self.check_restores(&repository, what);
        let report = verify_fresh(&repository);
        report.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)))
    }

    fn check_restores(&self, repository: &Arc<Repository>, what: &str) {
        for snapshot in &repository
            .snapshots()
            .expect("snapshots are listed")
            .snapshots
        {
            self.check_restore(repository, snapshot, what);
        }
    }

    fn check_restore(&self, repository: &Arc<Repository>, snapshot: &Snapshot, what: &str) {
        let made = self.disks.iter().find(|(id, _)| *id == snapshot.id);
        match (restore_fresh(repository, snapshot), made) {
            (Ok(bytes), Some((_, right))) => assert!(bytes == *right, "{what}: other bytes"),
            (Ok(_), None) => {}
            (Err(error), _) => assert!(error.is_damage(), "{what}: {}", chain(&error)),
        }
    }
}

fn is_named(report: &VerifyReport, name: Name) -> bool {
    report
        .faults
        .iter()
        .any(|fault| fault.object == name.path())
}

/// Puts other bytes into a file, and what was there back afterwards.
fn replaced(path: &Path, bytes: Option<&[u8]>, during: impl FnOnce()) {
    let before = fs::read(path).expect("the object is there");
    match bytes {
        Some(bytes) => fs::write(path, bytes).expect("the object can be written"),
        None => fs::remove_file(path).expect("the object can be removed"),
    }
    during();
    fs::write(path, before).expect("the object can be written");
}

fn every_object_cut_emptied_or_deleted(passphrase: Option<&'static str>) {
    let world = World::new(passphrase, seed());
    let packs = world.list(Area::Packs);
    assert!(packs.len() > 3, "{packs:?}");
    for name in packs.into_iter().chain(world.list(Area::Snapshots)) {
        let path = world.path(name);
        let bytes = fs::read(&path).expect("the object is there");
        let mut longer = bytes.clone();
        longer.extend_from_slice(&bytes[..100]);
        let cuts = [0, 1, 47, 48, 95, 96, bytes.len() / 2, bytes.len() - 1];
        let cuts = cuts
            .iter()
            .filter_map(|len| bytes.get(..*len))
            .chain([longer.as_slice()]);
        for cut in cuts {
            let what = format!("{name} with {} of {} bytes", cut.len(), bytes.len());
            replaced(&path, Some(cut), || {
                let report = world.check(&what);
                assert!(is_named(&report, name), "{what}: {:#?}", report.faults);
            });
        }
        replaced(&path, None, || {
            let report = world.check(&format!("{name} is deleted"));
            if matches!(name, Name::Pack(_)) {
                let missing = |fault: &&_| fault_is_missing(fault);
                let hurts = report
                    .faults
                    .iter()
                    .filter(missing)
                    .any(|f| !f.hurts.is_empty());
                assert!(hurts, "{name}: {:#?}", report.faults);
            } else {
                assert_clean(&report);
            }
        });
    }
    assert_clean(&world.check("everything is back"));
}

fn fault_is_missing(fault: &cairn_engine::verify::Fault) -> bool {
    fault.kind == FaultKind::Missing
}

#[test]
fn objects_cut_emptied_or_deleted() {
    every_object_cut_emptied_or_deleted(None);
}

#[test]
fn objects_of_an_encrypted_repository_cut_emptied_or_deleted() {
    every_object_cut_emptied_or_deleted(Some("correct horse"));
}

fn objects_in_the_place_of_others(passphrase: Option<&'static str>) {
    let seed = seed();
    let world = World::new(passphrase, seed);
    let other = World::new(passphrase, !seed);
    for area in [Area::Packs, Area::Snapshots] {
        let (names, others) = (world.list(area), other.list(area));
        for pair in names.windows(2) {
            let paths = [world.path(pair[0]), world.path(pair[1])];
            let bytes = paths
                .each_ref()
                .map(|path| fs::read(path).expect("it is there"));
            replaced(&paths[0], Some(&bytes[1]), || {
                let what = format!("{} is a copy of {}", pair[0], pair[1]);
                assert!(is_named(&world.check(&what), pair[0]), "{what}");
                replaced(&paths[1], Some(&bytes[0]), || {
                    let what = format!("{} and {} have each other's bytes", pair[0], pair[1]);
                    let report = world.check(&what);
                    assert!(pair.iter().all(|name| is_named(&report, *name)), "{what}");
                });
            });
        }
        let foreign = fs::read(other.path(others[0])).expect("it is there");
        replaced(&world.path(names[0]), Some(&foreign), || {
            let what = format!("{} is another repository's", names[0]);
            let report = world.check(&what);
            assert!(is_named(&report, names[0]), "{what}: {:#?}", report.faults);
        });
        // Under its own name it is sound as a file.
        let added = world.path(others[0]);
        fs::create_dir_all(added.parent().expect("it is in a folder")).expect("writable");
        fs::write(&added, &foreign).expect("writable");
        let what = format!("another repository's {} is added", others[0]);
        let report = world.check(&what);
        match (passphrase, area) {
            (Some(_), _) => assert!(is_named(&report, others[0]), "{what}: {:#?}", report.faults),
            // A plain pack is as good as our own; a plain manifest lacks its packs.
            (None, Area::Packs) => assert_clean(&report),
            (None, _) => assert!(!report.faults.is_empty(), "{what}"),
        }
        fs::remove_file(&added).expect("it can be removed");
    }
    assert_clean(&world.check("everything is back"));
}

#[test]
fn objects_in_the_place_of_others_in_a_plain_repository() {
    objects_in_the_place_of_others(None);
}

#[test]
fn objects_in_the_place_of_others_in_an_encrypted_repository() {
    objects_in_the_place_of_others(Some("correct horse"));
}

fn a_note_is_for_one_snapshot(passphrase: Option<&'static str>) {
    let world = World::new(passphrase, seed());
    let [first, second] = [world.disks[0].0, world.disks[1].0];
    let repository = world.repository.open();
    let note = repository
        .add_note(first, Fact::Forgotten)
        .expect("the note is added");
    let replayed = Name::Note(second, note);
    let (from, to) = (world.path(Name::Note(first, note)), world.path(replayed));
    fs::create_dir_all(to.parent().expect("it is in a folder")).expect("writable");
    fs::copy(from, to).expect("it can be copied");
    let list = repository.snapshots().expect("snapshots are listed");
    let forgotten = |snapshot: &&Snapshot| snapshot.state.forgotten.is_some();
    let forgotten: Vec<_> = list
        .snapshots
        .iter()
        .filter(forgotten)
        .map(|it| it.id)
        .collect();
    assert_eq!(forgotten, [first], "the replayed note counts");
    let report = world.check("a note is replayed");
    assert!(is_named(&report, replayed), "{:#?}", report.faults);
}

#[test]
fn a_note_replayed_for_another_snapshot_counts_for_nothing() {
    a_note_is_for_one_snapshot(None);
    a_note_is_for_one_snapshot(Some("correct horse"));
}
