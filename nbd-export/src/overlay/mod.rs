//! A copy-on-write layer over a disk, in one sparse local file.
//!
//! The file holds the disk's written blocks at the disk's own offsets, and two maps of them. The
//! map of what was *written* gets an entry right after the data went to the kernel: it holds as
//! long as the kernel runs, whatever becomes of the process. The map of what was *flushed* gets its
//! entries by a flush, after the data were made durable and never before: it holds after a power
//! cut. Which of the two is to be believed is told by the kernel's boot id, which the file notes,
//! and after a flush failed by a mark that is kept in memory, outside the file.
//! A block that is in a map stays in it; what a client gives up is a hole in the file.
//! `docs/overlay.md` says where every byte stands, and why.
//!
//! Locks, in this order: a region (while data and map change) → a page of the map → the set of
//! pages to flush. A flush holds its own lock, then that of the set; it never waits for writers.

mod error;
mod flush;
mod header;
mod io;
mod layout;
mod load;
mod lock;
mod map;
mod mark;
mod medium;
mod open;
mod sector;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use cairn_engine::id::{NodeId, RepositoryId, SnapshotId};

pub use error::OverlayError;

use crate::disk::Disk;
use layout::Layout;
use map::Map;
use mark::Mark;
use medium::Medium;
use sector::SectorCodec;

/// Which disk an overlay lies over. It is bound to it for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The repository.
    pub repository: RepositoryId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The disk's target name, of at most 255 bytes.
    pub target: String,
    /// Root of the disk's recipe.
    pub recipe: NodeId,
}

/// In what state an overlay was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It was not there, and was made.
    New,
    /// It holds every write that was answered.
    Whole,
    /// The machine was started anew since the last write, or a flush failed: it holds what was
    /// flushed.
    AfterPowerCut {
        /// Bytes that are known to have been written after the last flush, and are dropped. There
        /// may have been more.
        dropped: u64,
    },
}

/// A disk with a layer over it that takes the writes.
///
/// An answered write is seen by all later reads. That of an overlay in a file survives the end of
/// the process, and once flushed a power cut. After a flush failed nothing more is taken, and
/// nothing written is given back: what the system could not write it may have dropped. Dropping
/// the overlay flushes it if it can.
pub struct Overlay {
    base: Arc<dyn Disk>,
    medium: Box<dyn Medium>,
    layout: Layout,
    map: Map,
    /// `None` for an overlay that nobody opens again.
    codec: Option<SectorCodec>,
    /// What to leave for whoever opens it next, if a flush fails. `None` where nobody does.
    mark: Option<Mark>,
    opened: Opened,
    /// Held to write while a block of a region changes, to read while one is read.
    regions: Box<[RwLock<()>]>,
    /// Pages of the map with blocks that were not flushed.
    unflushed: Mutex<BTreeSet<u64>>,
    /// Writes that ended.
    writes: AtomicU64,
    /// How many of them are durable.
    flushed: Mutex<u64>,
    has_failed: AtomicBool,
}

impl Overlay {
    /// Returns in what state the overlay was found.
    pub fn opened(&self) -> Opened {
        self.opened
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay")
            .field("size", &self.layout.size)
            .field("opened", &self.opened)
            .finish_non_exhaustive()
    }
}
