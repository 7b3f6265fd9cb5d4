//! Snapshots' disks as exports serve them, and what changed between them.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use cairn_engine::id::SnapshotId;
use cairn_engine::image::{CACHE_BYTES_DEFAULT, ImageCache};
use cairn_engine::nbd::wire::{cmd, errno, opt};
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repair::{RepairOptions, repair};
use cairn_engine::repository::{Access, Contents, Repository};
use cairn_nbd_export::disk::{Changes, Disk, DiskError, WriteDisk};
use cairn_nbd_export::snapshot::{SnapshotDisk, WithWrites};

use crate::peer::Peer;
use crate::seed;
use crate::support::{MemorySource, TestRepository, random_disk};
use crate::world::World;

const DISK_LEN: usize = 9_000_001;

fn open(repository: &Arc<Repository>, id: SnapshotId) -> SnapshotDisk {
    let list = repository.snapshots().expect("snapshots are listed");
    let mut snapshots = list.snapshots.iter();
    let snapshot = snapshots
        .find(|snapshot| snapshot.id == id)
        .expect("is listed");
    let disk = snapshot.disk("vda").expect("the disk was backed up");
    let contents = Contents::open(repository, Access::Read(vec![id]), "test").expect("opens");
    let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
    SnapshotDisk::open(&Arc::new(contents), &list, snapshot, disk, &cache).expect("opens")
}

fn holds(ranges: &[Range<u64>], at: u64) -> bool {
    ranges.iter().any(|range| range.contains(&at))
}

fn has(changes: &impl Changes, base: SnapshotId) -> bool {
    changes.has(base).expect("storage answers")
}

#[test]
fn what_changed_holds_every_byte_that_differs() {
    let mut random = fastrand::Rng::with_seed(seed());
    let repository = TestRepository::new();
    let old = random_disk(&mut random, DISK_LEN - 300_000);
    let mut new = old.clone();
    new.resize(DISK_LEN, 7);
    new[2_000_000..2_000_100].fill_with(|| random.u8(..));
    new[5_000_000..5_500_000].fill(0);
    let backup = |disk: &[u8]| {
        let source = MemorySource::new(disk.to_vec());
        repository.backup(source, None).expect("backs up").snapshot
    };
    let ids = [backup(&old), backup(&new)];
    let opened = repository.open();
    for (disk, base) in [(1, 0), (0, 1)] {
        let (this, other) = ([&old, &new][disk], [&old, &new][base]);
        let disk = open(&opened, ids[disk]);
        assert_eq!(disk.size(), this.len() as u64);
        assert!(disk.bases() == [ids[1], ids[0]] && has(&disk, ids[base]));
        for _ in 0..50 {
            let start = random.u64(0..disk.size());
            let range = start..random.u64(start..=disk.size());
            let changed = disk.changed(ids[base], range.clone()).expect("compares");
            let inside = |part: &Range<u64>| part.start >= range.start && part.end <= range.end;
            assert!(changed.iter().all(inside), "{changed:?} of {range:?}");
            assert!(changed.windows(2).all(|two| two[0].end < two[1].start));
            for at in range.clone().step_by(97) {
                let differs = this.get(at as usize) != other.get(at as usize);
                assert!(!differs || holds(&changed, at), "{at} of {range:?}");
            }
        }
        let all = disk.changed(ids[base], 0..disk.size()).expect("compares");
        let bytes: u64 = all.iter().map(|range| range.end - range.start).sum();
        assert!(bytes < 1_500_000, "{bytes}");
        let itself = disk
            .changed(ids[1 - base], 0..disk.size())
            .expect("compares");
        assert!(itself.is_empty());
        let nobody = SnapshotId::from_bytes([7; SnapshotId::LEN]);
        assert!(!has(&disk, nobody));
        assert!(disk.changed(nobody, 0..1).is_err());
    }
    // One that came after the list was made.
    let disk = open(&opened, ids[0]);
    let later = backup(&new);
    assert!(has(&disk, later) && !disk.bases().contains(&later));
    assert!(
        !disk
            .changed(later, 0..disk.size())
            .expect("compares")
            .is_empty()
    );
}

/// A disk whose writes are only noted.
struct Noted {
    below: SnapshotDisk,
    written: Mutex<Vec<Range<u64>>>,
}

impl Disk for Noted {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.below.read_at(offset, buf)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.below.try_read_at(offset, buf)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<cairn_engine::extent::Extent>, DiskError> {
        self.below.extents(range)
    }

    fn prefetch(&self, range: Range<u64>) {
        self.below.prefetch(range);
    }

    fn writer(&self) -> Option<&dyn WriteDisk> {
        Some(self)
    }
}

impl WriteDisk for Noted {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let mut written = self.written.lock().expect("no thread panicked");
        written.push(offset..offset + data.len() as u64);
        Ok(())
    }

    fn write_zeroes(&self, _: Range<u64>, _: bool) -> Result<(), DiskError> {
        Ok(())
    }

    fn trim(&self, _: Range<u64>) -> Result<(), DiskError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn written(&self, _: Range<u64>) -> Result<Vec<Range<u64>>, DiskError> {
        Ok(self.written.lock().expect("no thread panicked").clone())
    }
}

#[test]
fn writes_count_as_changes_even_since_the_snapshot_itself() {
    let mut random = fastrand::Rng::with_seed(seed());
    let repository = TestRepository::new();
    let source = MemorySource::new(random_disk(&mut random, DISK_LEN));
    let id = repository.backup(source, None).expect("backs up").snapshot;
    let opened = repository.open();
    let disk = Arc::new(Noted {
        below: open(&opened, id),
        written: Mutex::default(),
    });
    let changes = WithWrites::new(Arc::new(open(&opened, id)), disk.clone());
    assert_eq!(changes.changed(id, 0..1 << 20).expect("compares"), []);
    disk.write_at(4096, &[1; 512]).expect("is noted");
    let changed = changes.changed(id, 0..1 << 20).expect("compares");
    assert!(changed.len() == 1 && changed[0] == (4096..4608));
    assert!(has(&changes, id) && changes.bases() == [id]);
}

/// Flips a byte early in the largest pack of a repository, which holds disk data.
fn damage(repository: &TestRepository) {
    let folders = std::fs::read_dir(repository.path().join("packs")).expect("there are packs");
    let packs = folders.flatten().flat_map(|folder| {
        let packs = std::fs::read_dir(folder.path()).expect("it is a folder");
        packs.flatten().map(|pack| pack.path())
    });
    let largest = packs.max_by_key(|pack| pack.metadata().map_or(0, |found| found.len()));
    let largest = largest.expect("there is a pack");
    let mut bytes = std::fs::read(&largest).expect("it can be read");
    bytes[500] ^= 4;
    std::fs::write(&largest, bytes).expect("it can be written");
}

#[test]
fn what_a_repair_could_not_heal_is_an_error_and_the_rest_is_right() {
    let mut random = fastrand::Rng::with_seed(seed());
    let repository = TestRepository::new();
    let bytes = random_disk(&mut random, DISK_LEN);
    let source = MemorySource::new(bytes.clone());
    let id = repository.backup(source, None).expect("backs up").snapshot;
    damage(&repository);
    let opened = repository.open();
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = RepairOptions {
        packs: None,
        donors: &[],
        threads: 2,
        progress: &progress,
        cancel: &cancel,
    };
    let report = repair(&opened, &options).expect("it can be repaired");
    let hurts = report.remaining.iter().flat_map(|fault| &fault.hurts);
    let lost: Vec<Range<u64>> = hurts.map(|hurt| hurt.range.clone()).collect();
    assert!(!lost.is_empty(), "{report:?}");
    let world = World::of(Arc::new(open(&opened, id)));
    let mut peer = Peer::ready(&world, Some(opt::STRUCTURED_REPLY));
    let (mut good, mut bad) = (0, 0);
    for (number, expected) in bytes.chunks(4096).enumerate() {
        let (at, len) = (number as u64 * 4096, expected.len());
        let reply = peer.request(cmd::READ, 0, at, len as u64);
        let end = at + len as u64;
        if lost.iter().any(|lost| lost.start < end && at < lost.end) {
            bad += 1;
            assert_eq!(reply.errno(), errno::EIO, "at {at}");
        } else {
            good += 1;
            assert!(reply.ok().bytes(at, len) == expected, "other bytes at {at}");
        }
    }
    assert!(bad > 0 && good > bad, "{good} good, {bad} bad");
}
