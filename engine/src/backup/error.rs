//! Why a backup failed. Nothing is published then.

use crate::format::FormatError;
use crate::pack::PackError;
use crate::recipe::RecipeError;
use crate::repository::RepositoryError;
use crate::source::SourceError;

/// A backup failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A disk could not be read.
    #[error("cannot read disk {target}")]
    Source {
        /// The disk.
        target: String,
        /// The source's reason, with the disk offset.
        source: SourceError,
    },
    /// The parent's recipe could not be read, or the new one not be stored.
    #[error("cannot build the recipe of disk {target}")]
    Recipe {
        /// The disk.
        target: String,
        /// The recipe's reason.
        source: RecipeError,
    },
    /// A source that knows only what changed was given without a snapshot that it changed from.
    #[error("disk {target} is given by its changes, and there is no parent that has this disk")]
    NoParent {
        /// The disk.
        target: String,
    },
    /// What was asked for cannot be written into a manifest.
    #[error("the snapshot cannot be described")]
    Manifest(#[source] FormatError),
    /// A delta's parent has lost chunks, so the delta alone does not give the disk.
    #[error("the parent of disk {target} has lost data, and the delta alone does not have it")]
    ParentDamaged {
        /// The disk.
        target: String,
    },
    /// A delta's parent was written to while it was read.
    #[error(
        "the parent of disk {target} was written to while it was read: nothing can be computed \
         from it by a delta"
    )]
    ParentTorn {
        /// The disk.
        target: String,
    },
    /// A source was written to while it was read.
    #[error("disk {target} was written to while it was read, so it is not published: {what}")]
    Written {
        /// The disk or file.
        target: String,
        /// Which file of it, and what happened to that.
        what: String,
    },
    /// The audit that was asked for found bytes that are called unchanged and are not the parent's.
    #[error(
        "the audit of disk {target} found other bytes than the parent's at disk offset {offset}, \
         where the source says that nothing changed"
    )]
    AuditFailed {
        /// The disk.
        target: String,
        /// Disk offset of the chunk that differs.
        offset: u64,
    },
    /// Whoever asked for the backup took that back when all was stored.
    #[error("withdrawn before it was published: {reason}")]
    Withdrawn {
        /// Why.
        reason: String,
    },
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl BackupError {
    /// Returns whether this only says that the threads that write packs have ended: they know why.
    pub(super) fn is_consequence(&self) -> bool {
        match self {
            Self::Repository(RepositoryError::Pack(PackError::Stopped)) => true,
            Self::Recipe {
                source: RecipeError::Unwritable { source, .. },
                ..
            } => {
                matches!(source.downcast_ref(), Some(PackError::Stopped))
            }
            _ => false,
        }
    }
}
