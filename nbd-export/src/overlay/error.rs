//! What keeps an overlay from being opened.

use std::io;
use std::path::{Path, PathBuf};

/// Why an overlay cannot be made or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// The system refused a step.
    #[error("cannot {op} the overlay {}", path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The overlay.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is something else under this name.
    #[error("{} is there, and is no overlay of Cairn", path.display())]
    NotAnOverlay {
        /// What was named.
        path: PathBuf,
    },
    /// A later version of Cairn made it.
    #[error("the overlay {} has format {found}; this Cairn knows {supported}", path.display())]
    UnsupportedVersion {
        /// The overlay.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// No overlay can be kept there: locks and flushes are not what they are on a local disk.
    #[error("the overlay {} would stand on {kind}; it needs a local file system", path.display())]
    Unsuitable {
        /// The overlay.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// Somebody has it open.
    #[error("the overlay {} is in use by another process", path.display())]
    InUse {
        /// The overlay.
        path: PathBuf,
    },
    /// It belongs to another disk: its blocks make no sense over this one.
    #[error("the overlay {} belongs to {what} {found}, not {expected}", path.display())]
    OtherDisk {
        /// The overlay.
        path: PathBuf,
        /// What differs: repository, snapshot, target, disk size or recipe.
        what: &'static str,
        /// As the overlay says.
        found: String,
        /// As the disk is.
        expected: String,
    },
    /// Its bytes are not as they were written.
    #[error("the overlay {} is damaged: {what} at file offset {offset}", path.display())]
    Damaged {
        /// The overlay.
        path: PathBuf,
        /// What does not check.
        what: &'static str,
        /// Where it stands in the file.
        offset: u64,
    },
    /// No file can hold a disk of this size.
    #[error("a disk of {size} bytes is too large for the overlay {}", path.display())]
    TooLarge {
        /// The overlay.
        path: PathBuf,
        /// The disk's size in bytes.
        size: u64,
    },
}

pub(super) fn io_error(op: &'static str, path: &Path) -> impl Fn(io::Error) -> OverlayError {
    move |source| OverlayError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}
