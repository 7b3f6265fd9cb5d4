//! Packs move while they are read, at any moment: a reader follows them, and nothing is called
//! missing that is there.

use cairn_engine::id::SnapshotId;
use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};

use crate::support::memory::{restore_in, verify_in, verify_named};
use crate::support::objects::{Moment, Packs};
use crate::support::packs::{MemoryRepository, backed_up, other_packs};
use crate::support::{assert_clean, seed};

struct World {
    memory: MemoryRepository,
    id: SnapshotId,
    disk: Vec<u8>,
    /// Packs to move to: others than those of the moment, whatever is moved to them in turn.
    places: Vec<Packs>,
}

impl World {
    fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(seed());
        let mut disk = vec![0; 400_000];
        disk.fill_with(|| random.u8(b'a'..=b'p'));
        let (folder, id) = backed_up(&disk);
        Self {
            memory: MemoryRepository::load(folder),
            id,
            places: (0..6).map(|_| other_packs(&disk)).collect(),
            disk,
        }
    }

    fn restore(&self, moments: &[Moment]) {
        let contents = self.memory.contents();
        self.plan(moments);
        let restored = restore_in(&contents, &self.memory.snapshot(self.id));
        assert!(restored.expect("restores") == self.disk, "{moments:?}");
    }

    fn serve(&self, moments: &[Moment]) {
        let contents = std::sync::Arc::new(self.memory.contents());
        let snapshot = self.memory.snapshot(self.id);
        let disk = snapshot.disk("vda").expect("the disk was backed up");
        let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
        let image = Image::open(contents, disk, &cache).expect("opens");
        self.plan(moments);
        let mut served = vec![0; self.disk.len()];
        for (number, part) in served.chunks_mut(64 * 1024).enumerate() {
            let offset = number as u64 * 64 * 1024;
            let read = image.read_at(offset, part);
            read.unwrap_or_else(|error| panic!("{moments:?}: {error}"));
        }
        assert!(served == self.disk, "{moments:?}");
    }

    fn verify(&self, moments: &[Moment]) {
        let list = self.memory.repository.snapshots().expect("they are listed");
        let contents = self.memory.contents();
        self.plan(moments);
        assert_clean(&verify_in(&contents, &list).expect("verify goes on"));
        drop(contents);
        self.memory.objects.clear_moves();
        let contents = self.memory.contents();
        self.plan(moments);
        assert_clean(&verify_named(&contents, &list, &[self.id]).expect("verify goes on"));
    }

    /// Says when packs move, each time to the next place.
    fn plan(&self, moments: &[Moment]) {
        let old = self.memory.objects.all();
        let others = self.places.iter();
        let others = others.filter(|packs| packs.iter().all(|(name, _)| !old.contains_key(name)));
        for (when, packs) in moments.iter().zip(others) {
            self.memory.objects.move_packs(*when, packs.clone());
        }
    }

    fn each(&self, check: fn(&Self, &[Moment])) {
        use Moment::{AfterList, BeforeRead, DuringList};
        for reads in 0..40 {
            let rest = [
                &[] as &[Moment],
                &[AfterList],
                &[DuringList],
                &[DuringList, AfterList, DuringList],
                &[AfterList, AfterList, AfterList],
                &[BeforeRead(0), AfterList, BeforeRead(1), DuringList],
                &[BeforeRead(reads), BeforeRead(reads)],
            ];
            for rest in rest {
                check(self, &[&[BeforeRead(reads)], rest].concat());
                self.memory.objects.clear_moves();
            }
        }
    }
}

#[test]
fn a_restore_follows_what_moves() {
    World::new().each(World::restore);
}

#[test]
fn an_image_follows_what_moves() {
    World::new().each(World::serve);
}

#[test]
fn verify_does_not_call_damage_what_moves() {
    World::new().each(World::verify);
}

/// One that moves for the first time, so that there is something to be followed.
#[test]
fn moves_come_in_their_moment() {
    let world = World::new();
    world.memory.objects.take_lists();
    world.restore(&[Moment::BeforeRead(0), Moment::DuringList, Moment::AfterList]);
    assert_eq!(world.memory.objects.moves_left(), 0);
    // The one that opened, and those that were looked at for what had moved.
    assert!(world.memory.objects.take_lists() > 3);
}
