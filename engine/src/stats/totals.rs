//! Sizes and counts of a whole repository.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::pack::PackKind;
use crate::id::NodeId;
use crate::pack::{PackError, read_footer};
use crate::pool::{self, NoThread};
use crate::recipe::NodeError;
use crate::repository::{Contents, RepositoryError, SnapshotList};
use crate::storage::{Area, Name, StorageError};

/// A failure to gather statistics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A thread could not be started.
    #[error(transparent)]
    NoThread(#[from] NoThread),
    /// A recipe node could not be read, which says nothing about it.
    #[error("cannot read recipe node {node}")]
    Node {
        /// The node.
        node: NodeId,
        /// The reason.
        source: NodeError,
    },
    /// Someone asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Sizes and counts of a repository. Bytes throughout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Snapshots that are not forgotten.
    pub snapshots: u64,
    /// Sizes of their disks and files, holes included.
    pub virtual_bytes: u64,
    /// Bytes of their disks and files that are not holes.
    pub logical_bytes: u64,
    /// Plain bytes of the chunks in packs.
    pub unique_bytes: u64,
    /// Bytes of everything stored: packs with their footers and parity, recipes, documents. The
    /// index is a cache and does not count.
    pub stored_bytes: u64,
    /// Bytes among these of the parity of packs.
    pub parity_bytes: u64,
    /// Chunks in packs.
    pub chunks: u64,
    /// Packs.
    pub packs: u64,
}

impl Stats {
    /// Returns how many times a byte of the repository is used by snapshots.
    pub fn dedup_ratio(&self) -> f64 {
        ratio(self.logical_bytes, self.unique_bytes)
    }

    /// Returns how many plain bytes one stored byte holds.
    pub fn compression_ratio(&self) -> f64 {
        ratio(self.unique_bytes, self.stored_bytes)
    }
}

fn ratio(whole: u64, part: u64) -> f64 {
    if part == 0 {
        1.0
    } else {
        whole as f64 / part as f64
    }
}

/// Gathers statistics from manifests and from the footers of all packs.
pub fn stats(
    contents: &Contents,
    list: &SnapshotList,
    threads: usize,
) -> Result<Stats, StatsError> {
    let mut stats = Stats::default();
    for snapshot in list
        .snapshots
        .iter()
        .filter(|s| s.state.forgotten.is_none())
    {
        stats.snapshots += 1;
        for recipe in snapshot.manifest.recipes() {
            stats.virtual_bytes += recipe.size;
            stats.logical_bytes += recipe.data_bytes;
        }
    }
    let repository = contents.repository();
    let storage = repository.storage();
    stats.stored_bytes += storage.len(&Name::Config).map_err(RepositoryError::from)?;
    for area in [Area::Packs, Area::Snapshots, Area::Notes, Area::Keys] {
        for listed in storage.list(area).map_err(RepositoryError::from)? {
            stats.stored_bytes += listed.len;
        }
    }
    let parity = storage.list(Area::Parity).map_err(RepositoryError::from)?;
    stats.parity_bytes = parity.iter().map(|listed| listed.len).sum();
    stats.stored_bytes += stats.parity_bytes;
    let (unique, chunks, packs) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    pool::for_each(threads, "stats", contents.packs().iter().map(Ok), || {
        |pack| {
            let reader = match read_footer(storage, repository.keys(), *pack) {
                Ok(reader) => reader,
                // A collection at work may take packs away.
                Err(PackError::Storage(StorageError::NotFound(_))) => return Ok(()),
                Err(error) => return Err(StatsError::from(RepositoryError::from(error))),
            };
            packs.fetch_add(1, Ordering::Relaxed);
            if reader.header().kind == PackKind::Data {
                let entries = &reader.footer().entries;
                let bytes = entries.iter().map(|entry| u64::from(entry.len)).sum();
                unique.fetch_add(bytes, Ordering::Relaxed);
                chunks.fetch_add(entries.len() as u64, Ordering::Relaxed);
            }
            Ok(())
        }
    })?;
    stats.unique_bytes = unique.into_inner();
    stats.chunks = chunks.into_inner();
    stats.packs = packs.into_inner();
    Ok(stats)
}
