//! Why a domain could not be backed up or brought back.

use std::io;
use std::path::PathBuf;

use crate::backup::BackupError;
use crate::repository::RepositoryError;
use crate::source::SourceError;
use crate::source::libvirt::LibvirtError;
use crate::source::libvirt::xml::XmlError;

/// A failure. Unless it says otherwise, nothing is published and the domain is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// libvirt refused, or cannot be reached.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
    /// The domain's XML makes no sense.
    #[error("cannot read the XML of domain {domain}")]
    Xml {
        /// The domain.
        domain: String,
        /// What is wrong with it.
        source: XmlError,
    },
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The backup itself failed.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A disk cannot be opened.
    #[error("cannot open disk {target}")]
    Source {
        /// The disk.
        target: String,
        /// Why not.
        source: SourceError,
    },
    /// Another Cairn is at work on the domain.
    #[error("domain {domain} is being backed up or restored by another cairn")]
    Busy {
        /// The domain.
        domain: String,
    },
    /// Another program's job is at work on the domain.
    #[error("domain {domain} has a job at work that is not this repository's: {what}")]
    ForeignJob {
        /// The domain.
        domain: String,
        /// What is known of the job.
        what: String,
    },
    /// A disk that was asked for is not there.
    #[error("domain {domain} has no disk `{target}`; it has: {there}")]
    NoSuchDisk {
        /// The domain.
        domain: String,
        /// The disk.
        target: String,
        /// Those it has.
        there: String,
    },
    /// Nothing of the domain can be backed up.
    #[error("domain {domain} has no disk to back up: {reasons}")]
    NothingToDo {
        /// The domain.
        domain: String,
        /// Why not, for each disk.
        reasons: String,
    },
    /// The user wants changes only, and they are not proven.
    #[error("disk {target} cannot be backed up by its changes: {doubt}")]
    NotIncremental {
        /// The disk.
        target: String,
        /// What speaks against it.
        doubt: String,
    },
    /// There is too little room for what the guest overwrites meanwhile.
    #[error("{folder} has {free} bytes free for scratch files, and {wanted} are wanted")]
    NoScratch {
        /// Where scratch files go.
        folder: PathBuf,
        /// What is free there.
        free: u64,
        /// What must be.
        wanted: u64,
    },
    /// Scratch files would lie in memory.
    #[error("{folder} is in memory: scratch files of any size cannot be kept there")]
    ScratchInMemory {
        /// The folder.
        folder: PathBuf,
    },
    /// The guest's file systems could not be frozen, and the user wants them to be.
    #[error("the guest cannot be frozen: {reason}")]
    NotFrozen {
        /// Why not.
        reason: String,
    },
    /// Something outside made the job worthless.
    #[error("the backup was given up: {reason}")]
    GivenUp {
        /// What happened.
        reason: String,
    },
    /// An overlay could not be committed back into its image.
    #[error(
        "overlay {path} of disk {target} holds the guest's data and is not committed back: {reason}"
    )]
    Overlay {
        /// The disk.
        target: String,
        /// The overlay.
        path: PathBuf,
        /// What stands in the way.
        reason: String,
    },
    /// A restore in place ended midway.
    #[error("a restore in place of domain {domain} ended midway: its disks are half set back")]
    HalfRestored {
        /// The domain.
        domain: String,
    },
    /// The domain is off, or goes off.
    #[error("domain {domain} is not running")]
    Off {
        /// The domain.
        domain: String,
    },
    /// The domain was off, and was started, or somebody wrote to its images, while these were read.
    #[error("domain {domain} was started, or its images were changed, while these were read")]
    Started {
        /// The domain.
        domain: String,
    },
    /// A hook failed.
    #[error("hook {phase} failed: {reason}")]
    Hook {
        /// When it ran.
        phase: &'static str,
        /// How it ended.
        reason: String,
    },
    /// QEMU's files cannot be made or used.
    #[error("cannot {op} {path}")]
    File {
        /// What was tried.
        op: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// QEMU may not use the run folder.
    #[error("QEMU may not make its socket in {folder}: {message}")]
    RunFolderDenied {
        /// The folder for the socket.
        folder: PathBuf,
        /// The user that it was given to, where libvirt tells who QEMU runs as.
        user: Option<u32>,
        /// libvirt's words.
        message: String,
    },
    /// The connection is one that Cairn does not use.
    #[error("{reason}")]
    Transport {
        /// Why not.
        reason: String,
    },
    /// The host cannot be worked on by ssh.
    #[error("cannot work on host {host} by ssh: {reason}")]
    Remote {
        /// The host.
        host: String,
        /// Why not.
        reason: String,
    },
    /// The host is reached by TLS, and how its disks are to be read is not said.
    #[error(
        "the disks of host {host} are read by TLS, and neither a port nor certificates are named"
    )]
    NoTls {
        /// The host.
        host: String,
    },
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl DomainError {
    /// Returns a closure that names what was tried on a path.
    pub(crate) fn file(op: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { op, path, source }
    }
}
