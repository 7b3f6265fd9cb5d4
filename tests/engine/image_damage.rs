//! Damage under an image: other copies serve, and where there is none, the read fails and says
//! which bytes; bytes that are wrong, or zeros in their stead, never come.

use std::sync::Arc;

use cairn_engine::format::pack::PackKind;
use cairn_engine::id::{PackId, SnapshotId};
use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache, ImageError};
use cairn_engine::storage::Name;

use crate::support::packs::{MemoryRepository, backed_up, other_packs};
use crate::support::seed;
use crate::support::waiting::wait_for;

const DISK_LEN: usize = 2 << 20;
const READ_LEN: usize = 4096;
/// The number of "permission denied": the pack is there, and nobody can say what it holds.
const EACCES: i32 = 13;

struct World {
    memory: MemoryRepository,
    id: SnapshotId,
    disk: Vec<u8>,
}

impl World {
    fn new(random: &mut fastrand::Rng) -> Self {
        let mut disk = vec![0; DISK_LEN];
        disk.fill_with(|| random.u8(b'a'..=b'p'));
        let (folder, id) = backed_up(&disk);
        Self {
            memory: MemoryRepository::load(folder),
            id,
            disk,
        }
    }

    fn image(&self, cache: &Arc<ImageCache>) -> Image {
        let contents = Arc::new(self.memory.contents());
        let snapshot = self.memory.snapshot(self.id);
        let disk = snapshot.disk("vda").expect("the disk was backed up");
        Image::open(contents, disk, cache).expect("opens")
    }

    /// Returns how often all packs were searched for something that is in none of them since the
    /// last call, at most: such a search lists them three times.
    fn searches(&self) -> usize {
        self.memory.objects.take_lists().div_ceil(3)
    }

    fn data_packs(&self) -> Vec<PackId> {
        self.memory.packs(PackKind::Data).into_keys().collect()
    }

    /// Reads the whole disk in small reads, each right or a failure; returns how many fail.
    fn failures(&self, image: &Image) -> usize {
        let mut failures = 0;
        for (number, expected) in self.disk.chunks(READ_LEN).enumerate() {
            let mut buf = vec![0; expected.len()];
            let offset = (number * READ_LEN) as u64;
            if image.try_read_at(offset, &mut buf) {
                assert!(buf == expected, "{offset}");
                buf.fill(0);
            }
            match image.read_at(offset, &mut buf) {
                Ok(()) => assert!(buf == expected, "{offset}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(error.is_damage() && text.contains("disk vda"), "{text}");
                    assert!(text.starts_with("cannot read bytes "), "{text}");
                    failures += 1;
                }
            }
        }
        failures
    }
}

#[test]
fn flipped_bits_are_failures_of_the_bytes_they_hurt() {
    let mut random = fastrand::Rng::with_seed(seed());
    let world = World::new(&mut random);
    let packs = world.data_packs();
    for _ in 0..12 {
        let pack = packs[random.usize(..packs.len())];
        let whole = world.memory.objects.all().remove(&Name::Pack(pack));
        let mut bytes = whole.clone().expect("the pack is there");
        // Somewhere in the frames.
        let at = random.usize(64..bytes.len() / 2);
        bytes[at] ^= 1 << random.u8(..8);
        world.memory.objects.set(Name::Pack(pack), Some(bytes));
        let image = world.image(&ImageCache::new(CACHE_BYTES_DEFAULT));
        let failures = world.failures(&image);
        assert!((1..=20).contains(&failures), "{failures} of byte {at}");
        world.memory.objects.set(Name::Pack(pack), whole);
    }
}

#[test]
fn a_pack_that_is_gone_fails_its_bytes_only_and_is_searched_for_once() {
    let mut random = fastrand::Rng::with_seed(seed());
    let world = World::new(&mut random);
    let pack = world.data_packs()[0];
    let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
    let image = world.image(&cache);
    let whole = world.memory.objects.all().remove(&Name::Pack(pack));
    world.memory.objects.set(Name::Pack(pack), None);
    world.searches();
    let failures = world.failures(&image);
    assert!(failures > 1 && failures < DISK_LEN / READ_LEN, "{failures}");
    let searches = world.searches();
    assert!(searches <= 2, "{searches} searches for {failures} failures");
    world.memory.objects.take_reads();
    assert_eq!(world.failures(&image), failures);
    let reads = world.memory.objects.take_reads().len();
    assert!(reads < failures, "{reads} reads for {failures} failures");
    world.memory.objects.set(Name::Pack(pack), whole);
}

/// Packs are repacked while an image is open: what they held stands in others, which the session
/// has not seen.
#[test]
fn copies_in_packs_that_came_later_serve() {
    let mut random = fastrand::Rng::with_seed(seed());
    for gone in [true, false] {
        let world = World::new(&mut random);
        let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
        let image = world.image(&cache);
        let mut buf = vec![0; READ_LEN];
        image.read_at(1 << 20, &mut buf).expect("reads");
        for (name, bytes) in world.memory.objects.all() {
            if let Name::Pack(_) = name {
                // The header is fine, the frames are not; or nothing is there. Packs may be small.
                let mut bytes = bytes;
                let end = (bytes.len() / 2).min(2000);
                bytes[80..end].fill(7);
                world.memory.objects.set(name, (!gone).then_some(bytes));
            }
        }
        for (name, bytes) in other_packs(&world.disk) {
            world.memory.objects.set(name, Some(bytes));
        }
        world.memory.objects.take_lists();
        assert_eq!(world.failures(&image), 0);
        // One for the chunks and one for the recipe's nodes; and some more, as packs go on the way.
        let searches = world.searches();
        assert!(searches <= 6, "{searches} searches, gone: {gone}");
        world.memory.objects.take_reads();
        assert_eq!(world.failures(&image), 0);
        assert!(world.memory.objects.take_reads().is_empty());
    }
}

/// While a pack is out of reach, damage in another one is no proof that a chunk is lost; and once
/// all packs can be reached again, the next read says so.
#[test]
fn a_pack_out_of_reach_is_not_masked_by_damage() {
    let mut random = fastrand::Rng::with_seed(seed());
    let world = World::new(&mut random);
    let packs = world.data_packs();
    let (hurt, hidden) = (Name::Pack(packs[0]), Name::Pack(packs[1]));
    let mut bytes = world.memory.objects.all()[&hurt].clone();
    let half = bytes.len() / 2;
    bytes[100..half].fill(7);
    world.memory.objects.set(hurt, Some(bytes));
    world
        .memory
        .objects
        .break_range(hidden, 0..u64::MAX, EACCES);
    let image = world.image(&ImageCache::new(CACHE_BYTES_DEFAULT));
    let mut buf = vec![0; READ_LEN];
    let mut read = |number: usize| image.read_at((number * READ_LEN) as u64, &mut buf);
    let failed: Vec<usize> = (0..DISK_LEN / READ_LEN)
        .filter(|number| match read(*number) {
            Ok(()) => false,
            Err(error) => {
                assert!(!error.is_damage(), "{error}");
                true
            }
        })
        .collect();
    assert!(!failed.is_empty());
    world.memory.objects.heal();
    // That a pack is out of reach counts for a while.
    let mut lost = 0;
    wait_for("another look", || {
        let errors = failed.iter().filter_map(|number| read(*number).err());
        let errors: Vec<_> = errors.collect();
        lost = errors.len();
        errors.iter().all(ImageError::is_damage)
    });
    assert!(lost > 0 && lost < failed.len());
}

/// Many clients on a bad area wait for the same few searches.
#[test]
fn readers_at_once_share_a_search() {
    let mut random = fastrand::Rng::with_seed(seed());
    let world = World::new(&mut random);
    for pack in world.data_packs() {
        world.memory.objects.set(Name::Pack(pack), None);
    }
    let image = world.image(&ImageCache::new(CACHE_BYTES_DEFAULT));
    world.searches();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let image = &image;
            scope.spawn(move || {
                let mut buf = vec![0; READ_LEN];
                for number in 0..DISK_LEN / READ_LEN / 8 {
                    let offset = (number * 8 + thread) * READ_LEN;
                    assert!(image.read_at(offset as u64, &mut buf).is_err());
                }
            });
        }
    });
    let searches = world.searches();
    assert!(searches <= 8, "{searches} searches");
}
