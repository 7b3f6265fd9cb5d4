//! An audit reads what a source calls unchanged, and does not believe it.

use cairn_engine::backup::{BackupDone, BackupError, BackupOptions, DiskRequest};
use cairn_engine::format::manifest::DiskMode;
use cairn_engine::progress::{Cancel, Progress};

use crate::support::{
    MemorySource, TestRepository, backup_disks, disk_request, edit, random_disk, seed, snapshot,
};

/// A disk that was backed up once.
struct World {
    repository: TestRepository,
    old: Vec<u8>,
    first: BackupDone,
}

impl World {
    fn new(random: &mut fastrand::Rng, len: usize) -> Self {
        let repository = TestRepository::new();
        let old = random_disk(random, len);
        let first = repository.backup(MemorySource::new(old.clone()), None);
        Self {
            repository,
            old,
            first: first.expect("there was a first backup"),
        }
    }

    /// Backs `source` up against the first snapshot; returns how much was read as well.
    fn audited(&self, source: MemorySource, percent: u8) -> (Result<BackupDone, BackupError>, u64) {
        let open = self.repository.open();
        let disk = DiskRequest {
            changes_only: true,
            ..disk_request("vda", Box::new(source))
        };
        let (progress, cancel) = (Progress::default(), Cancel::default());
        let options = BackupOptions {
            audit_percent: percent,
            ..BackupOptions::new(2, &progress, &cancel)
        };
        let parent = snapshot(&open, self.first.snapshot);
        let done = backup_disks(&open, vec![disk], Some(parent), &options);
        (done, progress.read_bytes.into_inner())
    }
}

#[test]
fn a_whole_audit_finds_the_one_byte_that_was_lied_about() {
    let mut random = fastrand::Rng::with_seed(seed());
    let world = World::new(&mut random, 40 << 20);
    for _ in 0..5 {
        // The source marks what was edited, and hides one more byte.
        let mut bytes = world.old.clone();
        edit(&mut random, &mut bytes);
        let mut source = MemorySource::changed_since(&world.old, bytes.clone(), true);
        let dirty = source.dirty.clone().unwrap();
        let hidden = loop {
            let at = random.usize(0..bytes.len());
            // Holes of the parent are no chunks.
            let block = at / 65_536 * 65_536;
            if !dirty[at / 65_536] && bytes[block..][..65_536].iter().any(|byte| *byte != 0) {
                break at;
            }
        };
        bytes[hidden] ^= 1;
        source.bytes = bytes.into();
        let (done, _) = world.audited(source, 100);
        match done.unwrap_err() {
            BackupError::AuditFailed { target, offset } => {
                assert_eq!(target, "vda");
                let chunk = offset..offset + 64 * 1024;
                assert!(chunk.contains(&(hidden as u64)), "{chunk:?}, {hidden}");
            }
            error => panic!("{error:?}"),
        }
    }
    let list = world.repository.open().snapshots().unwrap();
    assert_eq!(list.snapshots.len(), 1, "nothing was published");
}

#[test]
fn an_audit_of_the_truth_changes_nothing() {
    let mut random = fastrand::Rng::with_seed(seed());
    let world = World::new(&mut random, 40 << 20);
    let mut bytes = world.old.clone();
    edit(&mut random, &mut bytes);
    bytes.truncate(random.usize(20 << 20..40 << 20));
    let source = MemorySource::changed_since(&world.old, bytes, true);
    let mut read = Vec::new();
    let mut roots = Vec::new();
    for percent in [0, 50, 100] {
        let (done, bytes) = world.audited(source.clone(), percent);
        let record = done.unwrap().manifest.disks.remove(0);
        assert_eq!(record.mode, DiskMode::Incremental);
        roots.push(record.recipe);
        read.push(bytes);
    }
    assert!(roots.iter().all(|root| *root == roots[0]));
    assert!(read[0] < read[1] && read[1] < read[2], "{read:?}");
}

#[test]
fn a_delta_has_nothing_to_audit() {
    let mut random = fastrand::Rng::with_seed(seed());
    let world = World::new(&mut random, 3 << 20);
    let mut bytes = world.old.clone();
    edit(&mut random, &mut bytes);
    let source = MemorySource::changed_since(&world.old, bytes, false);
    let (done, _) = world.audited(source, 100);
    assert_eq!(done.unwrap().manifest.disks[0].mode, DiskMode::Incremental);
}
