//! What an export serves: a disk that can be read, and perhaps written.

use std::error::Error;
use std::io;
use std::ops::Range;

use cairn_engine::extent::Extent;
use cairn_engine::id::SnapshotId;

/// Why a request to a disk failed. What a client is told is an error number and the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The snapshot's bytes cannot be given back: damage, or storage that fails.
    #[error("cannot read {len} bytes at disk offset {offset}")]
    Read {
        /// Disk offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nobody can tell whether the disk can be compared with a snapshot: storage that fails, or
    /// damage.
    #[error("cannot look up snapshot {base}")]
    Base {
        /// The snapshot.
        base: SnapshotId,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The overlay cannot take a write, or make it durable.
    #[error("cannot {op} the overlay")]
    Overlay {
        /// What was tried, as a verb.
        op: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// A disk at one point in time. Shared by threads; every range must lie within the disk.
pub trait Disk: Send + Sync {
    /// Returns the disk's size in bytes; need not be a multiple of anything.
    fn size(&self) -> u64;

    /// Fills `buf` with the disk's bytes from `offset`, every byte checked against its hash.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError>;

    /// Does the same if that takes microseconds, with no reading and no decoding; returns whether
    /// it did. Where it returns `false`, `buf` may hold anything.
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> bool;

    /// Returns which parts of `range` hold data and which read as zeros: extents that cover the
    /// range exactly, in disk order, none of them unchanged.
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, DiskError>;

    /// Brings a range near, in the background and as far as memory allows; returns at once.
    fn prefetch(&self, range: Range<u64>);

    /// Returns how the disk is written, if it may be.
    fn writer(&self) -> Option<&dyn WriteDisk> {
        None
    }
}

/// A disk that takes writes. An answered write is seen by every later read, and survives the end
/// of the process; a flushed one survives a power cut.
pub trait WriteDisk: Send + Sync {
    /// Writes `data` from `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError>;

    /// Makes `range` read as zeros; a disk may free the space under it unless `keep_allocated`.
    fn write_zeroes(&self, range: Range<u64>, keep_allocated: bool) -> Result<(), DiskError>;

    /// Gives `range` up; afterwards it reads as zeros, here.
    fn trim(&self, range: Range<u64>) -> Result<(), DiskError>;

    /// Makes every write answered before, on whatever connection, durable.
    fn flush(&self) -> Result<(), DiskError>;

    /// Returns which parts of `range` were written since the disk was first opened for writing:
    /// ascending, neither overlapping nor touching.
    fn written(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, DiskError>;
}

/// What changed on a disk since other snapshots of it.
pub trait Changes: Send + Sync {
    /// Returns the snapshots that may be compared with, newest first, for listing.
    fn bases(&self) -> Vec<SnapshotId>;

    /// Returns whether `base` is a valid snapshot of the same disk, as of a few seconds ago.
    ///
    /// # Errors
    ///
    /// Nobody can tell.
    fn has(&self, base: SnapshotId) -> Result<bool, DiskError>;

    /// Returns which parts of `range` differ from `base`: ascending, neither overlapping nor
    /// touching.
    fn changed(&self, base: SnapshotId, range: Range<u64>) -> Result<Vec<Range<u64>>, DiskError>;
}
