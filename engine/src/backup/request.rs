//! What a backup is asked for, and what it answers.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::format::domain::{DiskIdentity, DomainRecord};
use crate::format::manifest::{Manifest, SourceRecord};
use crate::id::SnapshotId;
use crate::progress::{Cancel, Progress};
use crate::repository::{IntakeStats, Snapshot};
use crate::source::Source;

/// One disk to be backed up.
pub struct DiskRequest {
    /// The disk's name within the VM, such as `vda`.
    pub target: String,
    /// Its bytes.
    pub source: Box<dyn Source>,
    /// Whether the source reports what is unchanged since the parent, and the parent is proven.
    pub changes_only: bool,
    /// What the manifest says of the source.
    pub record: SourceRecord,
    /// What the disk is to its hypervisor.
    pub identity: Option<DiskIdentity>,
    /// Whether an earlier snapshot of the VM has it: decides what reading it whole is called.
    pub is_known: bool,
    /// Why it is not read by its changes alone, where that was wanted.
    pub doubt: Option<String>,
}

/// One file to be kept with the snapshot, and with what is in its disks.
pub struct FileRequest {
    /// What it is called: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Its bytes.
    pub source: Box<dyn Source>,
}

impl DiskRequest {
    /// Returns a request to read all of a disk.
    pub fn new(target: String, source: Box<dyn Source>, record: SourceRecord) -> Self {
        Self {
            target,
            source,
            changes_only: false,
            record,
            identity: None,
            is_known: false,
            doubt: None,
        }
    }
}

/// A snapshot to be made.
#[derive(Default)]
pub struct BackupRequest {
    /// The VM's name.
    pub vm: String,
    /// Its disks.
    pub disks: Vec<DiskRequest>,
    /// The snapshot that sources with `changes_only` report changes against.
    pub parent: Option<Snapshot>,
    /// Labels.
    pub tags: BTreeMap<String, String>,
    /// Documents kept with the snapshot, such as a domain's XML.
    pub metadata: BTreeMap<String, String>,
    /// Documents that are no texts, such as a domain's NVRAM. All of them are read.
    pub files: Vec<FileRequest>,
    /// The domain that is backed up.
    pub domain: Option<DomainRecord>,
    /// The point in time that the disks show; that of the call where it is not given.
    pub time: Option<Timestamp>,
}

/// How a backup runs.
pub struct BackupOptions<'o> {
    /// Threads that read, cut and compress, over all disks; at least 1. No more disks than this
    /// are read at once.
    pub threads: usize,
    /// How much of what sources call unchanged is read all the same and compared with the parent,
    /// in percent: 0 to 100. A difference fails the backup.
    pub audit_percent: u8,
    /// Where counters go.
    pub progress: &'o Progress,
    /// Asked between regions.
    pub cancel: &'o Cancel,
    /// Called once all that the snapshot needs is durable, just before it is published. Where it
    /// fails, nothing is published, and the backup fails with its reason.
    pub before_publish: Option<&'o BeforePublish<'o>>,
    /// What becomes of it where a source was written to while it was read.
    pub if_written: IfWritten,
}

/// What becomes of a backup where a source was written to while it was read, as far as that is
/// seen: what was read is then of no one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfWritten {
    /// It fails, and nothing is published.
    #[default]
    Refuse,
    /// It is published with a mark, and nothing is ever computed from that disk by its changes.
    Mark,
    /// Nobody looks. The caller knows better.
    NotAsked,
}

/// Has the last word on whether a snapshot is published; says why not.
pub type BeforePublish<'o> = dyn Fn() -> Result<(), String> + 'o;

impl<'o> BackupOptions<'o> {
    /// Returns options without an audit, and with nothing to be done before publishing.
    pub fn new(threads: usize, progress: &'o Progress, cancel: &'o Cancel) -> Self {
        Self {
            threads,
            audit_percent: 0,
            progress,
            cancel,
            before_publish: None,
            if_written: IfWritten::Refuse,
        }
    }
}

/// A snapshot that was published.
#[derive(Debug)]
pub struct BackupDone {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Its manifest, with what was read and stored for each disk.
    pub manifest: Manifest,
    /// The packs written.
    pub stored: IntakeStats,
    /// Disks that were read whole, or more of them than should have been needed.
    pub warnings: Vec<Warning>,
}

/// Why a disk was read whole, or more of it than should have been needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The disk.
    pub target: String,
    /// What was in doubt.
    pub doubt: Doubt,
}

/// What speaks against leaving out what need not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Doubt {
    /// Packs that the parent needs are gone or unreadable.
    #[error("the parent needs packs that are gone or cannot be read")]
    ParentDamaged,
    /// Some of what the parent has lies in packs that are gone or known to be damaged.
    #[error("the parent has lost {bytes} bytes of the disk: these are read again")]
    ParentLacks {
        /// How many.
        bytes: u64,
    },
    /// Bytes that were said to be unchanged are others than the parent's.
    #[error(
        "what the bitmap calls unchanged differs from the parent at disk offset {offset}: it does \
         not count from that snapshot, or not on this disk"
    )]
    NotUnchanged {
        /// Disk offset of the chunk that differs.
        offset: u64,
    },
    /// The parent was written to while it was read: it is of no one moment.
    #[error("the parent was written to while it was read")]
    ParentTorn,
    /// The source could not tell what need not be read.
    #[error("the source could not tell what need not be read: {reason}")]
    Untold {
        /// What stood in the way.
        reason: String,
    },
}
