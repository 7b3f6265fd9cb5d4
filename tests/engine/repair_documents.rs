//! Repair of manifests and notes: from a copy of the repository, and never out of nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::format::note::Fact;
use cairn_engine::id::SnapshotId;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repair::{Donor, RepairOptions, RepairReport, RepositoryDonor, repair};
use cairn_engine::repository::{Access, Contents, Repository, SnapshotState};
use cairn_engine::storage::sim::SimFs;
use cairn_engine::storage::{Area, Existing, Folder, Name, SharedStorage};

use crate::support::memory::restore_fresh;
use crate::support::sim::{copy_tree, init_on, open_on, scratch, small_settings};
use crate::support::{
    MemorySource, TestRepository, assert_clean, backup, open_at, options_at, random_disk, seed,
    snapshot,
};

/// A repository of two snapshots with notes, and a copy of it.
struct World {
    repository: TestRepository,
    disks: Vec<(SnapshotId, Vec<u8>)>,
    states: Vec<SnapshotState>,
}

impl World {
    fn new(passphrase: Option<&'static str>) -> Self {
        let repository = TestRepository::with(passphrase, |settings| *settings = small_settings());
        let mut random = fastrand::Rng::with_seed(seed());
        let disks = (0..2).map(|_| {
            let bytes = random_disk(&mut random, 300_000);
            let made = repository.backup(MemorySource::new(bytes.clone()), None);
            (made.expect("backs up").snapshot, bytes)
        });
        let disks: Vec<_> = disks.collect();
        let opened = repository.open();
        for (id, facts) in [
            (disks[0].0, [Fact::Protected, Fact::Forgotten]),
            (disks[1].0, [Fact::Forgotten, Fact::Undeleted]),
        ] {
            for fact in facts {
                opened.add_note(id, fact).expect("the note is added");
            }
        }
        let world = Self {
            states: disks
                .iter()
                .map(|(id, _)| snapshot(&opened, *id).state)
                .collect(),
            repository,
            disks,
        };
        copy_tree(&world.repository.path(), &world.copy());
        world
    }

    /// Where the copy is.
    fn copy(&self) -> PathBuf {
        self.repository.folder.path().join("copy")
    }

    fn path(&self, name: Name) -> PathBuf {
        self.repository.path().join(name.path())
    }

    fn list(&self, area: Area) -> Vec<Name> {
        let listed = self.repository.open().storage().list(area);
        let listed = listed.expect("it can be listed").into_iter();
        listed.map(|listed| listed.name).collect()
    }

    fn repair(&self) -> RepairReport {
        let copy = self.copy();
        let other = open_at(&copy, &options_at(&copy), self.repository.passphrase);
        repair_from(&self.repository.open(), &other.expect("the copy opens"))
    }

    /// Fails unless all is as it was made.
    fn assert_whole(&self) {
        let repository = self.repository.open();
        assert_clean(&self.repository.verify());
        for ((id, bytes), state) in self.disks.iter().zip(&self.states) {
            let snapshot = snapshot(&repository, *id);
            assert_eq!(snapshot.state, *state);
            let back = restore_fresh(&repository, &snapshot).expect("it restores");
            assert!(back == *bytes, "other bytes");
        }
    }
}

fn repair_from(repository: &Arc<Repository>, other: &Arc<Repository>) -> RepairReport {
    let list = other.snapshots().expect("snapshots are listed");
    let contents = Contents::open(other, Access::Read(Vec::new()), "test").expect("opens");
    let donor = RepositoryDonor::new(Arc::new(contents), list.snapshots);
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = RepairOptions {
        packs: None,
        donors: &[Donor::Repository(donor)],
        threads: 2,
        progress: &progress,
        cancel: &cancel,
    };
    repair(repository, &options).expect("it can be repaired")
}

fn change(path: &Path, how: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let changed = how(fs::read(path).expect("the object is there"));
    fs::write(path, &changed).expect("the object can be written");
    changed
}

fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    bytes
}

fn half(bytes: Vec<u8>) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

type Damage = fn(Vec<u8>) -> Vec<u8>;

const DAMAGES: [Damage; 4] = [
    flipped,
    half,
    |_| Vec::new(),
    |bytes| [bytes, b" ".to_vec()].concat(),
];

fn every_document_comes_back(passphrase: Option<&'static str>) {
    let world = World::new(passphrase);
    let documents = [world.list(Area::Snapshots), world.list(Area::Notes)].concat();
    assert_eq!(documents.len(), 6);
    for (name, damage) in documents.into_iter().zip(DAMAGES.iter().cycle()) {
        let damaged = change(&world.path(name), damage);
        assert!(!world.repository.verify().faults.is_empty(), "{name}");
        let report = world.repair();
        assert_eq!(report.healed_documents, [name]);
        assert!(report.remaining.is_empty(), "{:#?}", report.remaining);
        let path = name.path();
        let last = path.rsplit('/').next().expect("a name");
        let aside = world.repository.path().join("damaged").join(last);
        assert!(fs::read(aside).expect("it is kept") == damaged, "{name}");
        world.assert_whole();
    }
}

#[test]
fn documents_of_a_plain_repository_come_back_from_a_copy() {
    every_document_comes_back(None);
}

#[test]
fn documents_of_an_encrypted_repository_come_back_from_a_copy() {
    every_document_comes_back(Some("correct horse"));
}

#[test]
fn documents_with_each_others_bytes_come_back_with_what_their_snapshots_lack() {
    for passphrase in [None, Some("correct horse")] {
        let world = World::new(passphrase);
        for area in [Area::Snapshots, Area::Notes] {
            let names = world.list(area);
            let paths = [world.path(names[0]), world.path(names[1])];
            let bytes = paths.each_ref().map(|path| fs::read(path).expect("there"));
            fs::write(&paths[0], &bytes[1]).expect("writable");
            fs::write(&paths[1], &bytes[0]).expect("writable");
        }
        // What they need is found lost only once they are back.
        for pack in world.list(Area::Packs) {
            fs::remove_file(world.path(pack)).expect("it can be removed");
        }
        let report = world.repair();
        assert_eq!(report.healed_documents.len(), 4, "{report:?}");
        assert!(report.remaining.is_empty() && report.healed > 0);
        world.assert_whole();
    }
}

#[test]
fn what_no_copy_has_whole_is_named_and_stays_as_it_is() {
    for passphrase in [None, Some("correct horse")] {
        let world = World::new(passphrase);
        let documents = [world.list(Area::Snapshots), world.list(Area::Notes)].concat();
        // A copy that lies where nobody reads is none.
        let aside = world.copy().join("damaged");
        fs::create_dir_all(&aside).expect("it can be made");
        for name in &documents {
            let path = name.path();
            let last = path.rsplit('/').next().expect("a name");
            let copy = world.copy().join(&path);
            fs::copy(&copy, aside.join(last)).expect("there is space");
            change(&copy, half);
            change(&world.path(*name), flipped);
        }
        let report = world.repair();
        assert_eq!(report.healed_documents, []);
        let mut named: Vec<_> = report.remaining.iter().map(|it| &*it.object).collect();
        named.sort_unstable();
        let mut paths: Vec<_> = documents.iter().map(Name::path).collect();
        paths.sort_unstable();
        assert_eq!(named, paths);
        for name in documents {
            assert!(world.path(name).exists(), "{name}");
        }
    }
}

#[test]
fn another_repository_has_no_documents_of_ours() {
    let (world, other) = (World::new(None), World::new(None));
    let name = world.list(Area::Snapshots)[0];
    change(&world.path(name), flipped);
    let report = repair_from(&world.repository.open(), &other.repository.open());
    assert_eq!(report.healed_documents, []);
    assert_eq!(report.absent.len(), 0, "{:?}", report.absent);
    assert_eq!(report.remaining[0].object, name.path());
}

#[test]
fn a_deleted_snapshot_is_told_of_and_does_not_come_back() {
    for passphrase in [None, Some("correct horse")] {
        let world = World::new(passphrase);
        // The first is forgotten in the copy.
        for name in world.list(Area::Snapshots) {
            fs::remove_file(world.path(name)).expect("it can be removed");
        }
        let report = world.repair();
        assert_eq!(world.list(Area::Snapshots), []);
        let absent: Vec<_> = report.absent.iter().map(|absent| absent.id).collect();
        assert_eq!(absent, [world.disks[1].0]);
        assert!(report.absent[0].donor.ends_with("copy"), "{report:?}");
    }
}

/// Whenever the power is cut, the manifest is there, damaged or whole, and the next repair ends
/// well.
#[test]
fn a_power_cut_takes_no_manifest_away() {
    let seed = seed();
    let (disk, cache) = (SimFs::new(seed), scratch());
    let cache = |name: &str| cache.path().join(name);
    let repository = init_on(&disk, &cache("ours")).expect("it is made");
    let bytes = random_disk(&mut fastrand::Rng::with_seed(seed), 200_000);
    let made = backup(
        &repository,
        MemorySource::new(bytes),
        None,
        &Cancel::default(),
    );
    let id = made.expect("backs up").snapshot;
    let copy = disk.crash_image(disk.op_count(), seed);
    let other = open_on(&copy, &cache("other")).expect("the copy opens");
    let name = Name::Snapshot(id);
    let (storage, begun) = damage_on(&disk, &name);
    drop(storage);

    let report = repair_from(&repository, &other);
    assert_eq!(report.healed_documents, [name]);
    for ops in begun..=disk.op_count() {
        let image = disk.crash_image(ops, seed ^ ops as u64);
        let after = open_on(&image, &cache("after")).expect("it opens");
        let listed = after.storage().list(Area::Snapshots).expect("it is listed");
        assert_eq!(
            listed.len(),
            1,
            "the manifest is gone after {ops} operations"
        );
        if after.manifest(id).is_err() {
            repair_from(&after, &other);
        }
        after.manifest(id).expect("it is whole again");
    }
}

/// Puts half a manifest in its place; returns how many operations the disk has seen then.
fn damage_on(disk: &SimFs, name: &Name) -> (SharedStorage, usize) {
    let storage: SharedStorage = Arc::new(Folder::open(disk.clone()).expect("it opens"));
    let session = storage.open_session(b"{}").expect("a session");
    let whole = storage.read(name, 1 << 20).expect("it is there");
    let put = storage.put(session.id(), name, &half(whole), Existing::Replace);
    put.expect("it is written");
    drop(session);
    let begun = disk.op_count();
    (storage, begun)
}
