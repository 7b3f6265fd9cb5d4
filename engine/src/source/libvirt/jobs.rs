//! Backup jobs, checkpoints and block jobs of a domain.

use virt::sys;

use super::{Domain, LibvirtError, Reason, ffi};

type Result<T> = std::result::Result<T, LibvirtError>;

/// How far a backup job's scratch files have grown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobProgress {
    /// Bytes that hold old data.
    pub scratch_used: u64,
    /// Bytes that they may come to hold.
    pub scratch_total: u64,
}

/// A block job of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockJob {
    /// libvirt's number of its kind.
    pub kind: i32,
    /// How far it is.
    pub done: u64,
    /// Where it ends.
    pub total: u64,
}

impl BlockJob {
    /// Returns whether it commits a disk's active image.
    pub fn is_active_commit(&self) -> bool {
        u32::try_from(self.kind) == Ok(sys::VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT)
    }
}

/// How much of a checkpoint is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointDescription {
    /// Its own XML, without the domain's.
    Plain,
    /// The same, and for each disk with an intact bitmap how many bytes it marks. Asks QEMU.
    WithSizes,
}

impl Domain {
    /// Begins a backup job, and creates a checkpoint at the same moment.
    pub fn backup_begin(&self, job: &str, checkpoint: Option<&str>) -> Result<()> {
        self.ffi(|raw| ffi::backup_begin(raw, job, checkpoint))
    }

    /// Returns the XML of the backup job at work; `None` if none is.
    pub fn backup_xml(&self) -> Result<Option<String>> {
        match self.ffi(ffi::backup_xml) {
            Ok(xml) => Ok(Some(xml)),
            Err(error) if error.reason == Reason::NoBackup => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the job at work. That none is, is fine.
    pub fn abort_job(&self) -> Result<()> {
        match self.ffi(ffi::abort_job) {
            Err(error) if error.reason == Reason::Invalid => Ok(()),
            other => other,
        }
    }

    /// Returns how far the job at work is; `None` if none is.
    pub fn job_progress(&self) -> Result<Option<JobProgress>> {
        let stats = self.raw()?.job_stats(0);
        let stats = stats.map_err(|error| LibvirtError::of("ask for the job", &error))?;
        let none = i32::try_from(sys::VIR_DOMAIN_JOB_NONE).unwrap_or_default();
        Ok((stats.r#type != none).then(|| JobProgress {
            scratch_used: stats.disk_temp_used.unwrap_or_default(),
            scratch_total: stats.disk_temp_total.unwrap_or_default(),
        }))
    }

    /// Lets calls to the guest agent fail after so many seconds.
    pub fn set_agent_timeout(&self, seconds: i32) -> Result<()> {
        self.ffi(|raw| ffi::set_agent_timeout(raw, seconds))
    }

    /// Creates a checkpoint of a running domain.
    pub fn checkpoint_create(&self, xml: &str) -> Result<()> {
        self.ffi(|raw| ffi::checkpoint_create(raw, xml, 0))
    }

    /// Defines a checkpoint anew whose bitmaps are there. A running domain's are looked at; those
    /// of one that is off, nobody looks at.
    pub fn checkpoint_redefine(&self, xml: &str, validate: bool) -> Result<()> {
        let flags = match validate {
            true => {
                sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
                    | sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
            }
            false => sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE,
        };
        self.ffi(|raw| ffi::checkpoint_create(raw, xml, flags))
    }

    /// Returns the names of its checkpoints, parents first.
    pub fn checkpoints(&self) -> Result<Vec<String>> {
        self.ffi(ffi::checkpoint_names)
    }

    /// Returns a checkpoint's XML.
    pub fn checkpoint_xml(&self, name: &str, how: CheckpointDescription) -> Result<String> {
        let flags = sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN
            | match how {
                CheckpointDescription::Plain => 0,
                CheckpointDescription::WithSizes => sys::VIR_DOMAIN_CHECKPOINT_XML_SIZE,
            };
        self.ffi(|raw| ffi::checkpoint_xml(raw, name, flags))
    }

    /// Deletes a checkpoint with its bitmaps; what libvirt alone knows of, where they are gone. One
    /// that is not there is fine.
    pub fn checkpoint_delete(&self, name: &str) -> Result<()> {
        match self.ffi(|raw| ffi::checkpoint_delete(raw, name, 0)) {
            Err(error) if error.reason == Reason::NoCheckpoint => Ok(()),
            Err(error) if error.is_disconnected() => Err(error),
            Err(_) => self.checkpoint_forget(name),
            Ok(()) => Ok(()),
        }
    }

    /// Deletes what libvirt knows of a checkpoint; its bitmaps stay.
    pub fn checkpoint_forget(&self, name: &str) -> Result<()> {
        let metadata = sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY;
        match self.ffi(|raw| ffi::checkpoint_delete(raw, name, metadata)) {
            Err(error) if error.reason == Reason::NoCheckpoint => Ok(()),
            other => other,
        }
    }

    /// Begins to fill a disk's top image from its backing chain, at most `bandwidth` bytes a
    /// second; 0 is no bound.
    pub fn block_pull(&self, disk: &str, bandwidth: u64) -> Result<()> {
        let flags = sys::VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES;
        self.ffi(|raw| ffi::block_pull(raw, disk, bandwidth, flags))
    }

    /// Begins to commit a disk's active image into `base`, which takes its place by
    /// [`Domain::block_job_pivot`].
    pub fn block_commit_active(&self, disk: &str, base: &str) -> Result<()> {
        let flags = sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE;
        self.ffi(|raw| ffi::block_commit(raw, disk, base, flags))
    }

    /// Begins to copy a disk to an image that `target`, a `<disk>`, names, which takes its place by
    /// [`Domain::block_job_pivot`].
    pub fn block_copy(&self, disk: &str, target: &str) -> Result<()> {
        let flags = sys::VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | sys::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
        self.ffi(|raw| ffi::block_copy(raw, disk, target, flags))
    }

    /// Ends a disk's job.
    pub fn block_job_abort(&self, disk: &str) -> Result<()> {
        self.ffi(|raw| ffi::block_job_abort(raw, disk, 0))
    }

    /// Ends a copy or an active commit that is at its end: the disk is then what was written.
    pub fn block_job_pivot(&self, disk: &str) -> Result<()> {
        let pivot = sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT;
        self.ffi(|raw| ffi::block_job_abort(raw, disk, pivot))
    }

    /// Returns a disk's job, if there is one.
    pub fn block_job(&self, disk: &str) -> Result<Option<BlockJob>> {
        let found = self.ffi(|raw| ffi::block_job(raw, disk))?;
        Ok(found.map(|(kind, done, total)| BlockJob { kind, done, total }))
    }
}
