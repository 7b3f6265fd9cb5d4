//! Why a disk could not be restored to its target.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A target failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The system refused.
    #[error("cannot {op} {path}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or device.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write {path} at offset {offset}", path = path.display())]
    Write {
        /// The file or device.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The medium, or the user's share of it, is full.
    #[error("no space left for {path}", path = path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// An earlier write failed, so the target is not whole.
    #[error("an earlier write to {path} failed", path = path.display())]
    PreviousFailure {
        /// The file or device.
        path: PathBuf,
    },
    /// Something has that name already, and overwriting it was not allowed.
    #[error("{path} exists already", path = path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// What is at the path cannot become a file.
    #[error("{path} is neither a file nor a block device", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The path is a device, and overwriting what it holds was not allowed.
    #[error("{path} is a block device, whose content would be overwritten", path = path.display())]
    WouldOverwriteDevice {
        /// The device.
        path: PathBuf,
    },
    /// The device is mounted, or the kernel uses it otherwise.
    #[error("{path} is in use", path = path.display())]
    DeviceInUse {
        /// The device.
        path: PathBuf,
    },
    /// A running QEMU, or whoever follows its locks, holds the file or device.
    #[error("{path} is in use by {by}", path = path.display())]
    InUse {
        /// The file or device.
        path: PathBuf,
        /// Who holds it.
        by: String,
    },
    /// The disk does not fit the device.
    #[error("{path} has {device_size} bytes, and the disk has {disk_size}", path = path.display())]
    DeviceTooSmall {
        /// The device.
        path: PathBuf,
        /// Its size in bytes.
        device_size: u64,
        /// The disk's size in bytes.
        disk_size: u64,
    },
}

impl TargetError {
    /// Returns whether somebody else holds what was to be written.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::DeviceInUse { .. } | Self::InUse { .. })
    }

    pub(super) fn io(op: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.to_owned(), source.into());
        if is_full(&source) {
            return Self::NoSpace { path };
        }
        Self::Io { op, path, source }
    }

    pub(super) fn write(path: &Path, offset: u64, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_full(&source) {
            return Self::NoSpace { path };
        }
        Self::Write {
            path,
            offset,
            source,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
