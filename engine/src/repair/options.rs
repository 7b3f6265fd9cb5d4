//! What a repair is asked to do, and what it says of itself.

use jiff::Timestamp;

use crate::gc::Waiting;
use crate::id::{PackId, SnapshotId};
use crate::progress::{Cancel, Progress};
use crate::storage::Name;
use crate::verify::Fault;

use super::{DamagedPack, Donor};

/// What a repair is asked to do.
pub struct RepairOptions<'o> {
    /// The packs that are read; `None` for all.
    pub packs: Option<Vec<PackId>>,
    /// Where what is lost may still be had, in the order in which they are asked.
    pub donors: &'o [Donor],
    /// Threads that read and decode; at least 1.
    pub threads: usize,
    /// Where counters go.
    pub progress: &'o Progress,
    /// Asked often.
    pub cancel: &'o Cancel,
}

/// What a repair did.
#[derive(Debug, Default)]
pub struct RepairReport {
    /// Manifests and notes that were damaged, and were put back from donors.
    pub healed_documents: Vec<Name>,
    /// Snapshots of this repository that donors have, and that are not here.
    pub absent: Vec<AbsentSnapshot>,
    /// Whether the index was thrown away to be built anew.
    pub rebuilt_index: bool,
    /// Packs read.
    pub packs: u64,
    /// Bytes read of them.
    pub checked_bytes: u64,
    /// Packs that were damaged, and were rebuilt from their parity.
    pub rebuilt: Vec<DamagedPack>,
    /// Packs whose parity was missing or damaged, and was made anew.
    pub renewed_parity: Vec<PackId>,
    /// Packs that are damaged still, by id.
    pub damaged: Vec<DamagedPack>,
    /// Whether the damaged packs were set aside. They were not if writers are at work.
    pub is_set_aside: bool,
    /// Writers at work, which may be building on the damaged packs.
    pub waiting_for: Vec<Waiting>,
    /// Chunks and nodes that were whole in damaged packs, and are in new ones now.
    pub salvaged: u64,
    /// Chunks and nodes that were damaged in one pack and are whole in another.
    pub copied: u64,
    /// Chunks and nodes that came from donors.
    pub healed: u64,
    /// Packs written.
    pub written_packs: u64,
    /// Their stored bytes, with their parity.
    pub written_bytes: u64,
    /// What is still wrong, and whom it hurts. Not looked for where packs could not be set aside.
    pub remaining: Vec<Fault>,
}

/// A snapshot that a donor has, and that is not here: deleted here, or made there. It does not come
/// back by itself, since it may have been forgotten and collected here.
#[derive(Debug)]
pub struct AbsentSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its VM.
    pub vm: String,
    /// The point in time that its disks show.
    pub time: Timestamp,
    /// Where the donor is.
    pub donor: String,
}
