//! Random access to snapshots' disks gives the bytes that were backed up, at any offset and
//! length, from any number of threads, in whatever memory there is.

use std::sync::Arc;

use cairn_engine::extent::ExtentStatus;
use cairn_engine::id::SnapshotId;
use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};
use cairn_engine::limits::BLOCK_LEN;
use cairn_engine::repository::{Access, Contents};

use crate::support::packs::MemoryRepository;
use crate::support::sim::small_settings;
use crate::support::waiting::wait_for;
use crate::support::{MemorySource, TestRepository, random_disk, seed, snapshot};

const DISK_LEN: usize = 9 * 1024 * 1024 + 12_345;

/// Opens the disk of a snapshot in a session of its own.
fn open(repository: &TestRepository, id: SnapshotId, cache: &Arc<ImageCache>) -> Image {
    let repository = repository.open();
    let contents = Contents::open(&repository, Access::Read(vec![id]), "test").expect("opens");
    let snapshot = snapshot(&repository, id);
    let disk = snapshot.disk("vda").expect("the disk was backed up");
    Image::open(Arc::new(contents), disk, cache).expect("opens")
}

/// Reads at random, and compares with the disk.
fn read_at_random(image: &Image, disk: &[u8], random: &mut fastrand::Rng, reads: usize) {
    for _ in 0..reads {
        let most = match random.u8(0..10) {
            0 => disk.len(),
            1..4 => 300_000,
            _ => 5_000,
        };
        let offset = random.usize(0..=disk.len());
        let len = random.usize(0..=most.min(disk.len() - offset));
        let expected = &disk[offset..offset + len];
        let mut buf = vec![0xa5; len];
        if image.try_read_at(offset as u64, &mut buf) {
            assert!(buf == expected, "tried {offset}+{len}");
            buf.fill(0xa5);
        }
        image.read_at(offset as u64, &mut buf).expect("reads");
        assert!(buf == expected, "{offset}+{len}");
    }
}

#[test]
fn bytes_are_those_that_were_backed_up_whatever_the_memory() {
    let mut random = fastrand::Rng::with_seed(seed());
    for (passphrase, small) in [(None, false), (None, true), (Some("correct horse"), true)] {
        let repository = TestRepository::with(passphrase, |settings| {
            if small {
                *settings = small_settings();
            }
        });
        let first = random_disk(&mut random, DISK_LEN);
        let mut second = first.clone();
        second.truncate(DISK_LEN - 100_001);
        second[1_000_000..1_200_000].fill_with(|| random.u8(..));
        second[3_000_000..4_000_000].fill(0);
        let disks = [first, second].map(|disk| {
            let source = MemorySource::new(disk.clone());
            let id = repository.backup(source, None).expect("backs up").snapshot;
            (id, disk)
        });
        for bytes_max in [0, 10_000, 300_000, CACHE_BYTES_DEFAULT] {
            let cache = ImageCache::new(bytes_max);
            let images = disks
                .each_ref()
                .map(|(id, disk)| (open(&repository, *id, &cache), disk));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let (images, seed) = (&images, random.u64(..));
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(seed);
                        for (image, disk) in images {
                            assert_eq!(image.size(), disk.len() as u64);
                            read_at_random(image, disk, &mut random, 30);
                        }
                    });
                }
            });
            // A thread that reads ahead may be about to take a frame in.
            wait_for("no more than it may have", || cache.bytes() <= bytes_max);
        }
    }
}

#[test]
fn extents_are_the_holes_of_the_disk() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let repository = TestRepository::new();
    let disk = random_disk(&mut random, DISK_LEN);
    let source = MemorySource::new(disk.clone());
    let id = repository.backup(source, None).expect("backs up").snapshot;
    let image = open(&repository, id, &ImageCache::new(CACHE_BYTES_DEFAULT));
    for _ in 0..200 {
        let start = random.u64(0..=DISK_LEN as u64);
        let end = random.u64(start..=DISK_LEN as u64);
        let extents = image.extents(start..end).expect("the recipe is whole");
        let mut at = start;
        for extent in &extents {
            assert!(extent.offset == at && extent.len > 0, "{extents:?}");
            let mut block = at / BLOCK_LEN;
            at += extent.len;
            while block * BLOCK_LEN < at {
                let end = ((block + 1) * BLOCK_LEN).min(DISK_LEN as u64);
                let bytes = &disk[(block * BLOCK_LEN) as usize..end as usize];
                let expected = match bytes.iter().all(|byte| *byte == 0) {
                    true => ExtentStatus::Zero,
                    false => ExtentStatus::Data,
                };
                assert_eq!(extent.status, expected, "block {block}");
                block += 1;
            }
        }
        assert_eq!(at, end);
        let differ = extents.windows(2).all(|two| two[0].status != two[1].status);
        assert!(differ, "{extents:?}");
    }
}

#[test]
fn what_was_read_is_at_hand_and_what_was_fetched_ahead() {
    let mut random = fastrand::Rng::with_seed(seed());
    let repository = TestRepository::new();
    let mut disk = vec![0; DISK_LEN];
    disk[70_000..].fill_with(|| random.u8(b'a'..=b'p'));
    let source = MemorySource::new(disk.clone());
    let id = repository.backup(source, None).expect("backs up").snapshot;
    let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
    let image = open(&repository, id, &cache);
    let mut buf = vec![0xa5; 4096];
    assert!(!image.try_read_at(1_000_000, &mut buf));
    image.read_at(1_000_000, &mut buf).expect("reads");
    assert!(image.try_read_at(1_000_000, &mut buf));
    assert!(buf == disk[1_000_000..1_004_096]);
    let clone = image.clone();
    assert!(clone.try_read_at(1_000_100, &mut buf[..100]));
    // A hole is at hand as soon as its window is.
    assert!(image.try_read_at(0, &mut buf));
    assert!(buf.iter().all(|byte| *byte == 0));

    image.prefetch(4_000_000..5_000_000);
    wait_for("what was asked for ahead", || {
        (4_000_000..4_990_000)
            .step_by(9_000)
            .all(|offset| image.try_read_at(offset, &mut buf))
    });
    // Far more than there is, and beyond the end.
    for _ in 0..1000 {
        image.prefetch(0..u64::MAX);
    }
}

#[test]
fn a_client_in_sequence_finds_its_bytes_at_hand() {
    let mut random = fastrand::Rng::with_seed(seed());
    let repository = TestRepository::new();
    let mut disk = vec![0; 24 << 20];
    disk.fill_with(|| random.u8(b'a'..=b'p'));
    let source = MemorySource::new(disk.clone());
    let id = repository.backup(source, None).expect("backs up").snapshot;
    let image = open(&repository, id, &ImageCache::new(CACHE_BYTES_DEFAULT));
    let mut buf = vec![0; 64 * 1024];
    for (number, expected) in disk.chunks(buf.len()).enumerate() {
        let offset = (number * buf.len()) as u64;
        // At the beginning nobody knows that it goes on, and for the end alone nobody starts.
        if number < 16 || disk.len() as u64 - offset < 4 << 20 {
            image.read_at(offset, &mut buf).expect("reads");
        } else {
            // Nobody asks for it but by having read what stands before it.
            let what = format!("{offset} at hand");
            wait_for(&what, || image.try_read_at(offset, &mut buf));
        }
        assert!(buf == expected);
    }
}

/// However small the steps are in which a client goes over a disk, no frame is read for each.
#[test]
fn a_scan_in_small_steps_reads_each_frame_once() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let mut disk = vec![0; 14 << 20];
    disk.fill_with(|| random.u8(b'a'..=b'p'));
    let source = MemorySource::new(disk.clone());
    let id = folder.backup(source, None).expect("backs up").snapshot;
    let memory = MemoryRepository::load(folder);
    for step in [4096, 100_000] {
        let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
        let snapshot = memory.snapshot(id);
        let record = snapshot.disk("vda").expect("the disk was backed up");
        let image = Image::open(Arc::new(memory.contents()), record, &cache).expect("opens");
        memory.objects.take_reads();
        let mut buf = vec![0; step];
        for offset in (0..disk.len() - step).step_by(step) {
            image.read_at(offset as u64, &mut buf).expect("reads");
            assert!(buf == disk[offset..offset + step], "{offset}");
        }
        let mut reads = memory.objects.take_reads();
        let all = reads.len();
        reads.sort_unstable();
        reads.dedup();
        // A reader that overtakes a thread that reads ahead has some of them read twice; without
        // care each would be read once for every step in it.
        assert!(all <= 2 * reads.len(), "{all} of {}", reads.len());
    }
}

#[test]
fn a_disk_without_data_reads_as_zeros() {
    let repository = TestRepository::new();
    for len in [0, 1, 65_536, 5_000_000] {
        let source = MemorySource::new(vec![0; len]);
        let id = repository.backup(source, None).expect("backs up").snapshot;
        let image = open(&repository, id, &ImageCache::new(CACHE_BYTES_DEFAULT));
        let mut buf = vec![0xa5; len];
        image.read_at(0, &mut buf).expect("reads");
        assert!(buf.iter().all(|byte| *byte == 0));
        let extents = image.extents(0..len as u64).expect("reads");
        assert_eq!(extents.len(), usize::from(len > 0));
    }
}
