//! Power cuts and full disks at every step of a repair by parity, and of a collection that deletes
//! parity: every snapshot that could be read before can be read after, and another repair heals the
//! rest.

use std::sync::Arc;

use cairn_engine::id::SnapshotId;
use cairn_engine::progress::Cancel;
use cairn_engine::repository::{Repository, RepositoryError};
use cairn_engine::storage::sim::{Fault, FaultKind, FaultOn, SimFs};
use cairn_engine::storage::{Area, FileSystem, Folder, Name, OpenFile, SharedStorage};
use jiff::Timestamp;

use crate::repair::try_repair;
use crate::storage_sessions::Interrupted;
use crate::support::gc::collect;
use crate::support::memory::verify_fresh;
use crate::support::sim::{chain, faults, init_with_parity, open_on, options, scratch};
use crate::support::{MemorySource, assert_clean, backup, edit, seed};

/// A disk with a repository that has parity, and what is in it.
struct World {
    seed: u64,
    disk: SimFs,
    made: Vec<(SnapshotId, Vec<u8>)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let (disk, cache) = (SimFs::new(seed), scratch());
        let mut random = fastrand::Rng::with_seed(seed);
        let repository = init_with_parity(&disk, cache.path(), Some(20)).expect("made");
        let mut bytes: Vec<u8> = (0..400_000).map(|_| random.u8(..)).collect();
        let mut made = Vec::new();
        for _ in 0..3 {
            let source = MemorySource::new(bytes.clone());
            let done = backup(&repository, source, None, &Cancel::default());
            made.push((done.expect("backs up").snapshot, bytes.clone()));
            edit(&mut random, &mut bytes);
            bytes[..150_000].fill_with(|| random.u8(..));
        }
        Self { seed, disk, made }
    }

    fn open(&self, disk: &SimFs) -> Arc<Repository> {
        open_on(disk, scratch().path()).expect("it opens")
    }

    /// Damages the largest two packs, at the header and at the end, and the parity of a third.
    fn damage(&self) {
        let listed = self.open(&self.disk).storage().list(Area::Packs);
        let mut listed = listed.expect("packs are listed");
        listed.sort_by_key(|pack| std::cmp::Reverse(pack.len));
        let packs: Vec<Name> = listed.iter().map(|pack| pack.name).collect();
        self.change(&packs[0], |bytes| bytes[..5000].fill(0));
        self.change(&packs[1], |bytes| {
            let len = bytes.len();
            bytes.truncate(len - 100);
        });
        let Name::Pack(pack) = packs[2] else {
            panic!("packs were listed");
        };
        self.change(&Name::Parity(pack), |bytes| bytes[0] ^= 1);
    }

    fn change(&self, name: &Name, change: impl FnOnce(&mut Vec<u8>)) {
        let (disk, path) = (self.disk.spawn(), name.path());
        let file = disk.open(&path).expect("it is there");
        let mut bytes = vec![0; usize::try_from(file.len().expect("it has one")).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("readable");
        change(&mut bytes);
        disk.remove_file(&path).expect("removed");
        let mut file = disk.create_new(&path).expect("made");
        file.append(&bytes).expect("written");
        file.sync().expect("durable");
        let folder = path.rsplit_once('/').expect("it stands in a folder").0;
        disk.sync_folder(folder).expect("durable");
    }

    /// Returns what is wrong with a disk on which all snapshots but the first `gone` must be whole.
    fn wrong(&self, disk: &SimFs, gone: usize) -> Vec<String> {
        let repository = self.open(disk);
        let made = &self.made[gone..];
        let bytes_of = |id| made.iter().find(|it| it.0 == id).map(|it| it.1.clone());
        let mut wrong = faults(&repository, |snapshot| bytes_of(snapshot.id));
        let list = repository.snapshots().unwrap_or_default();
        let is_there = |id| list.snapshots.iter().any(|listed| listed.id == id);
        let lost = made.iter().filter(|(id, _)| !is_there(*id));
        wrong.extend(lost.map(|(id, _)| format!("snapshot {id} is lost")));
        wrong
    }

    /// Repairs a disk, and returns what is wrong with it then.
    fn heal(&self, disk: &SimFs) -> Vec<String> {
        match try_repair(&self.open(disk), &[]) {
            Ok(report) if report.remaining.is_empty() => self.wrong(disk, 0),
            Ok(report) => vec![format!("not healed: {report:?}")],
            Err(error) => vec![format!("no repair: {}", chain(&error))],
        }
    }
}

#[test]
fn a_power_cut_at_any_step_of_a_repair_leaves_what_another_heals() {
    let world = World::new(seed());
    world.damage();
    assert!(!world.wrong(&world.disk, 0).is_empty());
    let before = world.disk.op_count();
    let report = try_repair(&world.open(&world.disk), &[]).expect("repairs");
    assert_eq!((report.rebuilt.len(), report.renewed_parity.len()), (2, 1));
    for after in before..=world.disk.op_count() {
        for cut in 0..3 {
            let disk = world.disk.crash_image(after, after as u64 * 3 + cut);
            // At no step is there a name less than before.
            let listed = world
                .open(&disk)
                .storage()
                .list(Area::Packs)
                .expect("listed");
            let wanted = world.open(&world.disk).storage().list(Area::Packs);
            let count = wanted.expect("listed").len();
            let context = format!("seed {}, after {after}, cut {cut}", world.seed);
            assert_eq!(listed.len(), count, "{context}");
            let wrong = world.heal(&disk);
            let log = &world.disk.log()[after.saturating_sub(8)..after];
            assert!(wrong.is_empty(), "{context}: {wrong:#?}\n{log:#?}");
        }
    }
}

#[test]
fn a_repair_that_fails_at_any_step_is_gone_on_with_by_another() {
    let world = World::new(seed());
    world.damage();
    for kind in [FaultKind::Io, FaultKind::NoSpace, FaultKind::Death] {
        for at in (0..).step_by(3) {
            let disk = world.disk.crash_image(world.disk.op_count(), 0);
            disk.inject(Fault {
                on: FaultOn::Changes,
                at,
                lasting: false,
                kind,
            });
            let cache = scratch();
            let done = open_on(&disk, cache.path())
                .map(|repository| try_repair(&repository, &[]).map(|_| ()));
            let came = disk.op_count() > at || matches!(done, Err(_) | Ok(Err(_)));
            disk.heal();
            let context = format!("seed {}, {kind:?} at {at}", world.seed);
            let wrong = world.heal(&disk.spawn());
            assert!(wrong.is_empty(), "{context}: {wrong:#?}");
            if !came {
                break;
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_step_of_a_collection_leaves_parity_to_the_next() {
    let world = World::new(seed());
    let repository = world.open(&world.disk);
    repository.forget(&[world.made[0].0]).expect("forgets");
    let before = world.disk.op_count();
    let report = collect(&repository, Timestamp::now()).expect("collects");
    assert!(report.deleted_packs > 0, "{report:?}");
    for after in before..=world.disk.op_count() {
        let disk = world.disk.crash_image(after, after as u64);
        let context = format!("seed {}, after {after}", world.seed);
        let repository = world.open(&disk);
        collect(&repository, Timestamp::now()).expect("collects again");
        let wrong = world.wrong(&disk, 1);
        assert!(wrong.is_empty(), "{context}: {wrong:#?}");
        let list = |area| repository.storage().list(area).expect("listed");
        let packs: Vec<Name> = list(Area::Packs).into_iter().map(|it| it.name).collect();
        for parity in list(Area::Parity) {
            let Name::Parity(pack) = parity.name else {
                panic!("parity was listed");
            };
            assert!(
                packs.contains(&Name::Pack(pack)),
                "{context}: {pack} is left"
            );
        }
    }
}

#[test]
fn a_backup_between_any_two_steps_of_a_collection_keeps_its_parity() {
    let seed = seed();
    let (disk, cache) = (SimFs::new(seed), scratch());
    let mut random = fastrand::Rng::with_seed(seed);
    let repository = init_with_parity(&disk, cache.path(), Some(20)).expect("made");
    let mut disks = (0..3).map(|_| (0..60_000).map(|_| random.u8(..)).collect());
    let mut next = || -> Vec<u8> { disks.next().expect("there are enough") };
    let back_up = |repository: &Arc<Repository>, bytes: Vec<u8>| {
        let done = backup(
            repository,
            MemorySource::new(bytes),
            None,
            &Cancel::default(),
        );
        done.expect("backs up").snapshot
    };
    let forgotten = back_up(&repository, next());
    back_up(&repository, next());
    repository.forget(&[forgotten]).expect("forgets");
    let late = next();
    let (mut at, mut calls) = (0, 0);
    while at <= calls {
        let copy = disk.crash_image(disk.op_count(), 0);
        let writer = open_on(&copy.spawn(), scratch().path()).expect("it opens");
        let bytes = late.clone();
        let fs = Interrupted::new(copy.spawn(), at, move || {
            back_up(&writer, bytes.clone());
        });
        let storage: SharedStorage = Arc::new(Folder::open(fs.clone()).expect("it opens"));
        let no_passphrase = || Err(RepositoryError::WrongPassphrase);
        let cache = scratch();
        let collector = Repository::open(storage, &options(cache.path()), false, no_passphrase);
        let collector = collector.expect("it opens");
        collect(&collector, Timestamp::now()).expect("collects");
        calls = calls.max(fs.calls());
        let report = verify_fresh(&open_on(&copy, scratch().path()).expect("it opens"));
        let report = report.expect("verifies");
        assert_clean(&report);
        assert_eq!(report.without_parity, 0, "seed {seed}, before call {at}");
        at += random.usize(1..4);
    }
    assert!(calls > 50, "{calls}");
}
