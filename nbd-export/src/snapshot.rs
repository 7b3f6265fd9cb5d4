//! A snapshot's disk as one that can be served, with what changed since other snapshots of it.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cairn_engine::diff::diff_in;
use cairn_engine::extent::Extent;
use cairn_engine::format::manifest::DiskRecord;
use cairn_engine::id::SnapshotId;
use cairn_engine::image::{Image, ImageCache, ImageError};
use cairn_engine::repository::{Contents, RepositoryError, Snapshot, SnapshotList};
use cairn_engine::storage::{Area, Name, StorageError};

use crate::disk::{Changes, Disk, DiskError};

/// How long a list of the snapshots is gone by.
const LISTED_FOR: Duration = Duration::from_secs(2);

/// A disk of a snapshot, read only.
pub struct SnapshotDisk {
    image: Image,
    contents: Arc<Contents>,
    vm: String,
    record: DiskRecord,
    /// Snapshots of the same disk that were listed at opening, newest first.
    listed: Vec<SnapshotId>,
    /// What is known of snapshots, those that came later included; `None` is none of this disk.
    records: Mutex<HashMap<SnapshotId, Option<DiskRecord>>>,
    /// The names of all snapshots, and when they were listed.
    names: Mutex<Option<(Instant, HashSet<SnapshotId>)>>,
}

impl SnapshotDisk {
    /// Opens a disk of `snapshot`, within a session that names the snapshot. The snapshots of the
    /// same disk are those of `list` that have the same VM and target, this one and forgotten ones
    /// included; later ones are found when they are asked about.
    ///
    /// # Errors
    ///
    /// A disk larger than any that is supported.
    pub fn open(
        contents: &Arc<Contents>,
        list: &SnapshotList,
        snapshot: &Snapshot,
        disk: &DiskRecord,
        cache: &Arc<ImageCache>,
    ) -> Result<Self, ImageError> {
        let same_vm = list.snapshots.iter().rev();
        let same_vm = same_vm.filter(|other| other.manifest.vm == snapshot.manifest.vm);
        let same_disk = same_vm.filter_map(|other| Some((other.id, other.disk(&disk.target)?)));
        let same_disk: Vec<_> = same_disk.collect();
        Ok(Self {
            image: Image::open(Arc::clone(contents), disk, cache)?,
            contents: Arc::clone(contents),
            vm: snapshot.manifest.vm.clone(),
            record: disk.clone(),
            listed: same_disk.iter().map(|(id, _)| *id).collect(),
            records: Mutex::new(
                same_disk
                    .into_iter()
                    .map(|(id, disk)| (id, Some(disk.clone())))
                    .collect(),
            ),
            names: Mutex::default(),
        })
    }

    /// Returns what a snapshot says of the same disk; `None` unless it has that.
    fn record_of(&self, base: SnapshotId) -> Result<Option<DiskRecord>, DiskError> {
        let held = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = held.get(&base) {
            return Ok(record.clone());
        }
        drop(held);
        let failed = |source: RepositoryError| DiskError::Base {
            base,
            source: source.into(),
        };
        // Clients may ask for anything, and often: storage is asked for names that exist only.
        if !self.is_listed(base).map_err(failed)? {
            return Ok(None);
        }
        let manifest = match self.contents.repository().manifest(base) {
            Ok(manifest) => manifest,
            Err(RepositoryError::Storage(StorageError::NotFound(_))) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut disks = manifest.disks.into_iter();
        let same = |disk: &DiskRecord| manifest.vm == self.vm && disk.target == self.record.target;
        let record = disks.find(same);
        let mut held = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(base, record.clone());
        Ok(record)
    }

    /// Returns whether there is a snapshot of this name, or was a moment ago.
    fn is_listed(&self, id: SnapshotId) -> Result<bool, RepositoryError> {
        let mut held = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, names)) = &*held
            && when.elapsed() < LISTED_FOR
        {
            return Ok(names.contains(&id));
        }
        let listed = self.contents.repository().storage().list(Area::Snapshots)?;
        let names = listed.into_iter().filter_map(|listed| match listed.name {
            Name::Snapshot(id) => Some(id),
            _ => None,
        });
        let (_, names) = held.insert((Instant::now(), names.collect()));
        Ok(names.contains(&id))
    }
}

fn failed(range: &Range<u64>, source: impl Error + Send + Sync + 'static) -> DiskError {
    DiskError::Read {
        offset: range.start,
        len: range.end - range.start,
        source: source.into(),
    }
}

impl Disk for SnapshotDisk {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = offset..offset + buf.len() as u64;
        self.image
            .read_at(offset, buf)
            .map_err(|source| failed(&range, source))
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.image.try_read_at(offset, buf)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, DiskError> {
        self.image
            .extents(range.clone())
            .map_err(|source| failed(&range, source))
    }

    fn prefetch(&self, range: Range<u64>) {
        self.image.prefetch(range);
    }
}

/// A snapshot that is not forgotten, or not collected yet, can be compared with. One that goes away
/// meanwhile makes a comparison fail, as its recipe's nodes cannot be had any more.
impl Changes for SnapshotDisk {
    fn bases(&self) -> Vec<SnapshotId> {
        self.listed.clone()
    }

    fn has(&self, base: SnapshotId) -> Result<bool, DiskError> {
        Ok(self.record_of(base)?.is_some())
    }

    fn changed(&self, base: SnapshotId, range: Range<u64>) -> Result<Vec<Range<u64>>, DiskError> {
        let range = range.start..range.end.min(self.size());
        let Some(old) = self.record_of(base)? else {
            return Err(failed(&range, NoSuchBase(base)));
        };
        diff_in(&self.contents, &old, &self.record, range.clone())
            .map_err(|source| failed(&range, source))
    }
}

/// Who asks has not asked [`Changes::has`] before, or the snapshot is gone.
#[derive(Debug, thiserror::Error)]
#[error("snapshot {0} is no snapshot of this disk")]
struct NoSuchBase(SnapshotId);

/// What changed on a disk that is written: what differs in the snapshot below, and what was
/// written since.
pub struct WithWrites {
    below: Arc<dyn Changes>,
    disk: Arc<dyn Disk>,
}

impl WithWrites {
    /// Unites the changes of a snapshot's disk with the writes to `disk`, which stands on it.
    pub fn new(below: Arc<dyn Changes>, disk: Arc<dyn Disk>) -> Self {
        Self { below, disk }
    }
}

impl Changes for WithWrites {
    fn bases(&self) -> Vec<SnapshotId> {
        self.below.bases()
    }

    fn has(&self, base: SnapshotId) -> Result<bool, DiskError> {
        self.below.has(base)
    }

    fn changed(&self, base: SnapshotId, range: Range<u64>) -> Result<Vec<Range<u64>>, DiskError> {
        let changed = self.below.changed(base, range.clone())?;
        match self.disk.writer() {
            Some(writer) => Ok(united(changed, writer.written(range)?)),
            None => Ok(changed),
        }
    }
}

/// Returns the bytes of either list as ranges that neither overlap nor touch.
fn united(mut ranges: Vec<Range<u64>>, others: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.extend(others);
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut united: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match united.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => united.push(range),
        }
    }
    united
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn united_ranges_hold_the_bytes_of_both() {
        let mut random = fastrand::Rng::with_seed(9);
        for _ in 0..1000 {
            let mut list = || {
                let mut at = 0;
                let ranges = (0..random.usize(..5)).map(|_| {
                    let start = at + random.u64(1..6);
                    at = start + random.u64(1..6);
                    start..at
                });
                ranges.collect::<Vec<_>>()
            };
            let (one, other) = (list(), list());
            let all = united(one.clone(), other.clone());
            let holds = |ranges: &[Range<u64>], at| ranges.iter().any(|r| r.contains(&at));
            for at in 0..70 {
                let expected = holds(&one, at) || holds(&other, at);
                assert_eq!(holds(&all, at), expected, "{one:?} {other:?} {at}");
            }
            assert!(all.windows(2).all(|two| two[0].end < two[1].start));
        }
    }
}
