//! Readers without a session, where nothing can be written: nobody minds them, and they say so of
//! what is taken under them.

use std::sync::Arc;

use cairn_engine::backup::BackupError;
use cairn_engine::gc::GcError;
use cairn_engine::id::SnapshotId;
use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};
use cairn_engine::progress::Cancel;
use cairn_engine::repository::{Access, Contents, RepositoryError, Unseen};
use cairn_engine::storage::{Name, StorageError};
use jiff::Timestamp;
use rustix::io::Errno;

use crate::support::gc::collect;
use crate::support::memory::{restore_in, verify_in};
use crate::support::objects::Moment;
use crate::support::packs::{MemoryRepository, backed_up, other_packs};
use crate::support::sim::chain;
use crate::support::{MemorySource, assert_clean, backup, seed};

const REFUSALS: [(Errno, Unseen); 3] = [
    (Errno::ROFS, Unseen::ReadOnly),
    (Errno::ACCESS, Unseen::Denied),
    (Errno::PERM, Unseen::Denied),
];

struct World {
    memory: MemoryRepository,
    id: SnapshotId,
    disk: Vec<u8>,
}

impl World {
    fn new(refusal: Errno) -> Self {
        let mut random = fastrand::Rng::with_seed(seed());
        let mut disk = vec![0; 300_000];
        disk.fill_with(|| random.u8(b'a'..=b'p'));
        let (folder, id) = backed_up(&disk);
        let memory = MemoryRepository::load(folder);
        memory.objects.refuse_writes(refusal.raw_os_error());
        Self { memory, id, disk }
    }

    fn contents(&self) -> Contents {
        let access = Access::Read(vec![self.id]);
        Contents::open(&self.memory.repository, access, "test").expect("readers need no session")
    }

    /// Takes the snapshot away, and all that it needs, as a collection does.
    fn take(&self) {
        for (name, _) in self.memory.objects.all() {
            if matches!(name, Name::Snapshot(_) | Name::Pack(_)) {
                self.memory.objects.set(name, None);
            }
        }
    }
}

#[test]
fn readers_read_and_writers_are_refused() {
    for (refusal, why) in REFUSALS {
        let world = World::new(refusal);
        let (repository, id) = (&world.memory.repository, world.id);
        let contents = world.contents();
        assert_eq!(contents.why_unseen(), Some(why));
        let sessions = repository.storage().sessions().expect("they are listed");
        assert!(sessions.is_empty(), "{sessions:?}");
        let snapshot = world.memory.snapshot(id);
        assert!(restore_in(&contents, &snapshot).expect("restores") == world.disk);
        let list = repository.snapshots().expect("they are listed");
        assert_clean(&verify_in(&contents, &list).expect("verify goes on"));

        let source = MemorySource::new(world.disk.clone());
        let refused = backup(repository, source, None, &Cancel::default());
        let refused = refused.map(drop).expect_err("nothing can be written");
        assert!(
            matches!(
                refused,
                BackupError::Repository(RepositoryError::Storage(StorageError::Unwritable { .. }))
            ),
            "{refused:?}"
        );
        let refused = collect(repository, Timestamp::now()).err();
        let refused = refused.expect("nothing can be written");
        assert!(
            matches!(
                refused,
                GcError::Repository(RepositoryError::Storage(StorageError::Unwritable { .. }))
            ),
            "{refused:?}"
        );
    }
}

/// Packs that move are followed without a session, too.
#[test]
fn what_moves_is_followed() {
    let world = World::new(Errno::ROFS);
    for reads in 0..8 {
        let packs = other_packs(&world.disk);
        let contents = world.contents();
        let snapshot = world.memory.snapshot(world.id);
        world
            .memory
            .objects
            .move_packs(Moment::BeforeRead(reads), packs);
        let restored = restore_in(&contents, &snapshot);
        assert!(restored.expect("restores") == world.disk, "{reads}");
        assert_eq!(world.memory.objects.moves_left(), 0);
    }
}

#[test]
fn what_is_taken_under_a_reader_is_gone_and_not_damaged() {
    let is_gone = |error: &dyn std::error::Error, id: SnapshotId| {
        let said = chain(error);
        let gone = format!("snapshot {id} is not there any more");
        assert!(said.contains(&gone), "{said}");
    };
    for (refusal, _) in REFUSALS {
        let world = World::new(refusal);
        let contents = world.contents();
        let snapshot = world.memory.snapshot(world.id);
        world.take();
        let failed = restore_in(&contents, &snapshot).expect_err("it was taken");
        is_gone(&failed, world.id);

        let world = World::new(refusal);
        let contents = Arc::new(world.contents());
        let snapshot = world.memory.snapshot(world.id);
        let disk = snapshot.disk("vda").expect("the disk was backed up");
        let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
        let image = Image::open(contents, disk, &cache).expect("opens");
        let mut bytes = vec![0; 1000];
        image.read_at(0, &mut bytes).expect("it is all there");
        world.take();
        let failed = image.read_at(200_000, &mut bytes);
        let failed = failed.expect_err("it was taken");
        is_gone(&failed, world.id);
        assert!(!failed.is_damage(), "{failed:?}");
    }
}

#[test]
fn damage_stays_damage_to_a_reader_without_a_session() {
    let world = World::new(Errno::ROFS);
    let contents = world.contents();
    let snapshot = world.memory.snapshot(world.id);
    for (name, _) in world.memory.objects.all() {
        if matches!(name, Name::Pack(_)) {
            world.memory.objects.set(name, None);
        }
    }
    let failed = restore_in(&contents, &snapshot).expect_err("nothing is left");
    let said = chain(&failed);
    assert!(said.contains("is in no pack"), "{said}");
}
