//! How a domain is to be backed up, and what is said meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::backup::BackupDone;
use crate::domain::freeze::{Freeze, GuardProgram};
use crate::domain::hook::Hook;
use crate::format::domain::LeftOut;
use crate::progress::{Cancel, Progress};
use crate::source::limit::RateLimit;

/// Which disks are read by their changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// Those whose changes are proven.
    #[default]
    Auto,
    /// None.
    Full,
    /// All, or the backup fails.
    Incremental,
}

/// How the disks are held at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// By a backup job, or under the image lock where the domain is off.
    #[default]
    Job,
    /// By an external libvirt snapshot, which is committed back.
    Snapshot,
    /// The same, with the guest's memory.
    Memory,
}

/// What is done about a domain that is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offline {
    /// Its images stay free: a start meanwhile is seen, and the backup repeated live.
    #[default]
    Detect,
    /// Its images are locked: it cannot start meanwhile.
    Lock,
}

/// Where what the guest overwrites meanwhile goes.
#[derive(Debug, Clone, Default)]
pub struct ScratchOptions {
    /// The folder; beside each image where there is none.
    pub folder: Option<PathBuf>,
    /// What must be free there; the larger of a tenth of the disks and 1 GiB where nothing is said.
    pub min: Option<u64>,
}

/// How a remote host's NBD server is reached by TLS.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The port on which QEMU listens.
    pub port: u16,
    /// The folder of this side's certificates.
    pub certificates: PathBuf,
}

/// How a domain is to be backed up.
pub struct DomainBackupOptions<'o> {
    /// The VM's name in the repository; what [`vm_name`](crate::domain::vm_name::vm_name) makes of
    /// the domain's without one.
    pub name: Option<String>,
    /// Disks to take; all where there are none.
    pub only: Vec<String>,
    /// Disks to leave out.
    pub exclude: Vec<String>,
    /// Which are read by their changes.
    pub reading: Reading,
    /// How they are held at one moment.
    pub way: Way,
    /// How the guest is held still around that moment.
    pub freeze: Freeze,
    /// What to do about a domain that is off.
    pub offline: Offline,
    /// The share of what is said to be unchanged that is read again, in percent.
    pub audit_percent: u8,
    /// A bound on what is read in a second.
    pub limit: Option<Arc<RateLimit>>,
    /// Scratch files.
    pub scratch: ScratchOptions,
    /// TLS, for hosts that are reached by it.
    pub tls: Option<TlsOptions>,
    /// Where run folders and locks are.
    pub run_folder: PathBuf,
    /// The guard.
    pub guard: GuardProgram,
    /// The user's commands.
    pub hooks: Vec<Hook>,
    /// Labels of the snapshot.
    pub tags: BTreeMap<String, String>,
    /// Threads that read, cut and compress.
    pub threads: usize,
    /// Where counters go.
    pub progress: &'o Progress,
    /// Asked to stop.
    pub cancel: &'o Cancel,
    /// Told what the user should know while it happens.
    pub say: &'o (dyn Fn(&str) + Sync),
}

/// A domain that was backed up.
#[derive(Debug)]
pub struct DomainBackupDone {
    /// The snapshot.
    pub backup: BackupDone,
    /// What was not as it should be, for the user.
    pub warnings: Vec<String>,
    /// Disks that should have been in the snapshot, and could not be read.
    pub unreadable: Vec<LeftOut>,
    /// How long the guest was held still, in milliseconds, if it was.
    pub frozen_ms: Option<u64>,
}
