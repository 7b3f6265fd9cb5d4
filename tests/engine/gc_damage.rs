//! Collections on disks that are damaged, or full: what can still be had stays so.

use std::fs;
use std::path::PathBuf;

use cairn_engine::gc::GcError;
use cairn_engine::id::{PackId, SnapshotId};
use cairn_engine::progress::Cancel;
use cairn_engine::storage::sim::{Fault, FaultKind, FaultOn, SimFs};
use cairn_engine::storage::{FileSystem, Name, OpenFile};
use jiff::Timestamp;

use crate::support::gc::{collect, collect_but};
use crate::support::memory::restore_fresh;
use crate::support::sim::{chain, copy_tree, init_with_parity, open_on, scratch, small_settings};
use crate::support::{MemorySource, TestRepository, backup, edit, random_disk, seed, snapshot};

/// Returns the packs of a repository, with their paths, by their names.
fn packs(repository: &TestRepository) -> Vec<(String, PathBuf)> {
    let folders = fs::read_dir(repository.path().join("packs")).expect("listed");
    let mut packs: Vec<_> = folders
        .flat_map(|folder| fs::read_dir(folder.expect("listed").path()).expect("listed"))
        .map(|pack| pack.expect("listed").path())
        .map(|path| {
            let name = path.file_name().expect("packs have names");
            (name.to_string_lossy().into_owned(), path)
        })
        .collect();
    packs.sort();
    packs
}

/// Two packs hold the same; of one some bytes have rotted. Whichever the collection would let go,
/// the good copy is still there afterwards.
#[test]
fn no_good_copy_goes_for_the_sake_of_a_rotten_one() {
    let bytes = random_disk(&mut fastrand::Rng::with_seed(31), 300_000);
    for rotten in 0..2 {
        let [one, twin] = [(); 2].map(|()| {
            TestRepository::with(None, |settings| {
                *settings = small_settings();
                settings.pack_len = 8 << 20;
            })
        });
        // The same repository twice, which stores the same bytes in packs of other names.
        fs::remove_dir_all(twin.path()).expect("removed");
        copy_tree(&one.path(), &twin.path());
        let source = || MemorySource::new(bytes.clone());
        let id = one.backup(source(), None).expect("backs up").snapshot;
        twin.backup(source(), None).expect("backs up");
        let ours = packs(&one);
        for (name, path) in packs(&twin) {
            let copy = one.path().join("packs").join(&name[..2]).join(&name);
            fs::create_dir_all(copy.parent().expect("it has a folder")).expect("made");
            fs::copy(path, copy).expect("copied");
        }
        let mut all = packs(&one);
        assert_eq!(all.len(), 2 * ours.len());
        // Packs of data are the longer ones.
        all.sort_by_key(|(_, path)| path.metadata().expect("measured").len());
        let mut data = all.split_off(all.len() - 2);
        data.sort();
        let path = &data[rotten].1;
        let mut stored = fs::read(path).expect("read");
        let at = stored.len() / 3;
        stored[at] ^= 1;
        fs::write(path, stored).expect("written");

        let repository = one.open();
        let report = collect(&repository, Timestamp::now()).expect("collects");
        let restored = restore_fresh(&one.open(), &snapshot(&repository, id));
        let restored = restored.unwrap_or_else(|e| panic!("{rotten}: {} {report:?}", chain(&e)));
        assert!(restored == bytes, "{rotten}");
    }
}

/// A repository in which packs are dead in part, and one that comes first cannot be read.
struct World {
    disk: SimFs,
    kept: Vec<(SnapshotId, Vec<u8>)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let (disk, cache) = (SimFs::new(seed), scratch());
        let mut random = fastrand::Rng::with_seed(seed);
        let parity = seed.is_multiple_of(2).then_some(10);
        let repository = init_with_parity(&disk, cache.path(), parity).expect("makes one");
        let mut bytes = random_disk(&mut random, 400_000);
        let mut all = Vec::new();
        for _ in 0..3 {
            let source = MemorySource::new(bytes.clone());
            let done = backup(&repository, source, None, &Cancel::default());
            all.push((done.expect("backs up").snapshot, bytes.clone()));
            edit(&mut random, &mut bytes);
            bytes[..100_000].fill_with(|| random.u8(b'a'..b'k'));
        }
        repository.forget(&[all[0].0]).expect("forgets");
        let unreadable = Name::Pack(PackId::from_bytes([0; 32])).path();
        let other = disk.spawn();
        drop(other.make_folder("packs/00"));
        let mut file = other.create_new(&unreadable).expect("made");
        file.append(&[7; 5000]).expect("written");
        file.sync().expect("durable");
        other.sync_folder("packs/00").expect("durable");
        other.sync_folder("packs").expect("durable");
        let kept = all.split_off(1);
        Self { disk, kept }
    }

    /// Collects while the disk is full from call `at` on, or at that one; returns whether the
    /// collection came so far.
    fn full_at(&self, at: usize, lasting: bool, kind: FaultKind) -> bool {
        let context = format!("{kind:?} at {at}, lasting: {lasting}");
        let disk = self.disk.crash_image(self.disk.op_count(), 0);
        let (before, cache) = (disk.op_count(), scratch());
        let repository = open_on(&disk, cache.path()).expect("nothing fails yet");
        disk.inject(Fault {
            on: FaultOn::Changes,
            at: before + at,
            lasting,
            kind,
        });
        let done = collect_but(&repository, Timestamp::now(), 0.0);
        let came = disk.op_count() > before + at;
        disk.heal();
        if let Err(error) = &done {
            assert!(
                matches!(error, GcError::Repository(_)),
                "{context}: {error:?}"
            );
        }
        drop(repository);
        for round in 0..2 {
            let repository = open_on(&disk.spawn(), scratch().path()).expect("opens");
            for (id, bytes) in &self.kept {
                let restored = restore_fresh(&repository, &snapshot(&repository, *id));
                let restored = restored.unwrap_or_else(|e| panic!("{context}: {}", chain(&e)));
                assert!(&restored == bytes, "{context}");
            }
            if round == 0 {
                // And now there is room.
                let done = collect(&repository, Timestamp::now());
                done.unwrap_or_else(|error| panic!("{context}: {}", chain(&error)));
            }
        }
        came
    }
}

#[test]
fn a_full_disk_beside_a_pack_that_cannot_be_read_loses_nothing() {
    let first = seed();
    for seed in (0..4).map(|number| first.wrapping_add(number)) {
        let world = World::new(seed);
        for (kind, lasting) in [
            (FaultKind::NoSpace, false),
            (FaultKind::Short, false),
            (FaultKind::NoSpace, true),
        ] {
            let mut at = 0;
            while world.full_at(at, lasting, kind) {
                at += 1;
            }
            assert!(at > 10, "{kind:?}: {at}");
        }
    }
}
