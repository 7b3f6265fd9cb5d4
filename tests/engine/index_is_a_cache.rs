//! The index is a cache: whatever becomes of it, a repository gives the same answers.

use std::fs;
use std::path::{Path, PathBuf};

use cairn_engine::id::SnapshotId;
use cairn_engine::repository::{Access, Contents};
use cairn_engine::storage::Name;
use cairn_engine::verify::FaultKind;
use jiff::Timestamp;

use crate::support::gc::collect;
use crate::support::liar::{replace_index, truth};
use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::{chain, copy_tree, scratch, small_settings};
use crate::support::{MemorySource, TestRepository, assert_clean, random_disk, seed, snapshot};

struct World {
    repository: TestRepository,
    made: Vec<(SnapshotId, Vec<u8>)>,
}

impl World {
    fn new(random: &mut fastrand::Rng) -> Self {
        let repository = TestRepository::with(None, |settings| *settings = small_settings());
        let mut world = Self {
            repository,
            made: Vec::new(),
        };
        for _ in 0..2 {
            world.add(random_disk(random, 900_000));
        }
        world
    }

    fn add(&mut self, bytes: Vec<u8>) -> u64 {
        let source = MemorySource::new(bytes.clone());
        let done = self.repository.backup(source, None);
        let done = done.unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.made.push((done.snapshot, bytes));
        done.manifest.disks[0].new_chunks
    }

    fn index(&self) -> PathBuf {
        self.repository.path().join("index")
    }

    /// Checks that all is as if nothing had been done to the index, and at last with the index.
    fn check(&mut self, what: &str) {
        for round in 0..2 {
            let repository = self.repository.open();
            let report = verify_fresh(&repository);
            let report = report.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
            let of_packs = |fault: &&_| kind(fault) != FaultKind::Index;
            let of_packs: Vec<_> = report.faults.iter().filter(of_packs).collect();
            assert!(of_packs.is_empty(), "{what}: {of_packs:#?}");
            for (id, bytes) in &self.made {
                let restored = restore_fresh(&repository, &snapshot(&repository, *id));
                let restored = restored.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
                assert!(restored == *bytes, "{what}: other bytes");
            }
            if round == 1 {
                assert_clean(&report);
            }
            drop(repository);
            // What the index could not tell may be stored once more, but not twice.
            let (_, bytes) = self.made[0].clone();
            let new = self.add(bytes);
            self.made.pop();
            assert!(
                round == 0 || new == 0,
                "{what}: {new} chunks were stored again"
            );
        }
    }
}

fn kind(fault: &cairn_engine::verify::Fault) -> FaultKind {
    fault.kind
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn an_index_that_is_gone_old_or_anothers_changes_no_answer() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut world = World::new(&mut random);
    fs::remove_dir_all(world.index()).expect("nobody uses it");
    world.check("the index is gone");

    let old = tempfile::tempdir().expect("a temporary folder can be made");
    copy_tree(&world.index(), &old.path().join("index"));
    world.add(random_disk(&mut random, 500_000));
    fs::remove_dir_all(world.index()).expect("nobody uses it");
    copy_tree(&old.path().join("index"), &world.index());
    world.check("the index is an older one");

    let other = World::new(&mut random);
    fs::remove_dir_all(world.index()).expect("nobody uses it");
    copy_tree(&other.index(), &world.index());
    world.check("the index is another repository's");

    fs::remove_dir_all(world.index()).expect("nobody uses it");
    fs::write(world.index(), b"no folder").expect("writable");
    let (_, bytes) = world.made[0].clone();
    assert_eq!(world.add(bytes), 0, "the index is a file");
    fs::remove_file(world.index()).expect("removable");
    world.check("the index was a file");
}

#[test]
fn an_index_with_any_file_damaged_changes_no_answer() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut world = World::new(&mut random);
    let whole = tempfile::tempdir().expect("a temporary folder can be made");
    copy_tree(&world.index(), &whole.path().join("index"));
    for file in files(&whole.path().join("index")) {
        let bytes = fs::read(&file).expect("readable");
        let relative = file
            .strip_prefix(whole.path())
            .expect("it is below")
            .to_owned();
        let place = world.repository.path().join(&relative);
        let mut garbage = bytes.clone();
        garbage.fill_with(|| random.u8(..));
        let mut versions = vec![("emptied", Some(Vec::new())), ("gone", None)];
        versions.push(("cut", Some(bytes[..bytes.len() / 2].to_vec())));
        versions.push(("garbage", Some(garbage)));
        for _ in 0..4 {
            let mut flipped = bytes.clone();
            if !flipped.is_empty() {
                let at = random.usize(..flipped.len());
                flipped[at] ^= 1 << random.u8(..8);
            }
            versions.push(("flipped", Some(flipped)));
        }
        for (what, version) in versions {
            fs::remove_dir_all(world.index()).expect("nobody uses it");
            copy_tree(&whole.path().join("index"), &world.index());
            match version {
                Some(bytes) => fs::write(&place, bytes).expect("writable"),
                None => fs::remove_file(&place).expect("removable"),
            }
            world.check(&format!("{} is {what}", relative.display()));
        }
    }
}

#[test]
fn contents_of_packs_that_are_gone_are_stored_anew() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut world = World::new(&mut random);
    for round in 0..4 {
        let repository = world.repository.open();
        let packs = repository
            .storage()
            .list(cairn_engine::storage::Area::Packs);
        let mut packs = packs.expect("packs are listed");
        random.shuffle(&mut packs);
        for pack in packs.iter().take(1 + round * 3) {
            assert!(matches!(pack.name, Name::Pack(_)));
            fs::remove_file(world.repository.path().join(pack.name.path())).expect("removable");
        }
        drop(repository);
        let lost = world.repository.verify();
        assert!(!lost.faults.is_empty());
        // The same disks again heal the snapshots that lost something.
        let mut new = 0;
        for (_, bytes) in world.made.clone() {
            new += world.add(bytes);
            world.made.pop();
        }
        world.check(&format!("round {round}, {new} chunks stored anew"));
    }
}

/// A collection that asked the index would think of each pack but one that nothing in it is needed.
#[test]
fn a_collection_does_not_believe_the_index() {
    let mut world = World::new(&mut fastrand::Rng::with_seed(seed()));
    let forgotten = world.made.remove(0);
    let repository = world.repository.open();
    repository.forget(&[forgotten.0]).expect("forgets");
    let contents = Contents::open(&repository, Access::Read(Vec::new()), "test").expect("opens");
    let packs = contents.packs();
    let truth = truth(&contents);
    for pack in packs.iter() {
        let dir = scratch();
        copy_tree(world.repository.folder.path(), dir.path());
        let copy = TestRepository {
            folder: dir,
            passphrase: None,
        };
        let repository = copy.open();
        let mut places = truth[pack].clone();
        let (_, somewhere) = places[0];
        let others = truth.values().flatten();
        places.extend(others.map(|(id, _)| (*id, somewhere)));
        replace_index(&repository, &packs, [(*pack, places)].into());
        collect(&repository, Timestamp::now()).expect("collects");
        for (id, bytes) in &world.made {
            let restored = restore_fresh(&repository, &snapshot(&repository, *id));
            assert!(restored.expect("restores") == *bytes, "other bytes");
        }
    }
}
