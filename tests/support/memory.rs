//! Restores that end in memory.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cairn_engine::id::SnapshotId;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{Access, Contents, Repository, Snapshot, SnapshotList};
use cairn_engine::restore::{RestoreError, RestoreOptions, restore_disk};
use cairn_engine::target::{Abandoned, Finished, Target, TargetError};
use cairn_engine::verify::{VerifyError, VerifyOptions, VerifyReport, verify};

/// A disk that is restored into memory.
struct MemoryTarget(Mutex<Vec<u8>>);

impl Target for MemoryTarget {
    fn begin_region(&self, _: u64, _: &[Range<u64>]) -> Result<(), TargetError> {
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let start = usize::try_from(offset).expect("test disks fit in memory");
        let mut disk = self.0.lock().expect("no thread panicked");
        disk[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn end_region(&self, _: u64) {}

    fn finish(self: Box<Self>) -> Result<Finished, TargetError> {
        let size = self.0.lock().expect("no thread panicked").len() as u64;
        Ok(Finished {
            path: PathBuf::from("memory"),
            size,
        })
    }

    fn abandon(self: Box<Self>) -> Abandoned {
        Abandoned::Nothing
    }
}

/// Restores the disk `vda` of a snapshot within a session that is open.
pub fn restore_in(contents: &Contents, snapshot: &Snapshot) -> Result<Vec<u8>, RestoreError> {
    let disk = snapshot.disk("vda").expect("the disk was backed up");
    let size = usize::try_from(disk.size).expect("test disks fit in memory");
    let target = MemoryTarget(Mutex::new(vec![0; size]));
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = RestoreOptions {
        threads: 1,
        progress: &progress,
        cancel: &cancel,
    };
    restore_disk(contents, disk, &target, &options)?;
    Ok(target.0.into_inner().expect("no thread panicked"))
}

/// Restores the disk `vda` of a snapshot, in a session of its own.
pub fn restore_fresh(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
) -> Result<Vec<u8>, RestoreError> {
    let contents = Contents::open(repository, Access::Read(vec![snapshot.id]), "restore")?;
    restore_in(&contents, snapshot)
}

/// Verifies snapshots, and all packs, within a session that was opened after they were listed.
pub fn verify_in(contents: &Contents, list: &SnapshotList) -> Result<VerifyReport, VerifyError> {
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = VerifyOptions {
        snapshots: None,
        metadata_only: false,
        sample_percent: 100.0,
        max_duration: None,
        now: jiff::Timestamp::now(),
        threads: 1,
        progress: &progress,
        cancel: &cancel,
    };
    verify(contents, list, &options)
}

/// Verifies some snapshots and what they need, as [`verify_in`] does.
pub fn verify_named(
    contents: &Contents,
    list: &SnapshotList,
    snapshots: &[SnapshotId],
) -> Result<VerifyReport, VerifyError> {
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = VerifyOptions {
        snapshots: Some(snapshots.to_vec()),
        metadata_only: false,
        sample_percent: 100.0,
        max_duration: None,
        now: jiff::Timestamp::now(),
        threads: 1,
        progress: &progress,
        cancel: &cancel,
    };
    verify(contents, list, &options)
}

/// Verifies everything, in a session of its own.
pub fn verify_fresh(repository: &Arc<Repository>) -> Result<VerifyReport, VerifyError> {
    let list = repository.snapshots()?;
    let contents = Contents::open(repository, Access::Read(Vec::new()), "verify")?;
    verify_in(&contents, &list)
}
