//! Why a snapshot could not be tried at all, which says nothing about the snapshot.

use std::path::{Path, PathBuf};

use crate::domain::define::DefineError;
use crate::domain::rewrite::RewriteError;
use crate::source::libvirt::LibvirtError;
use crate::source::libvirt::xml::XmlError;

/// A proof that came to no verdict. What it had made is removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// libvirt refused, or cannot be reached.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
    /// No domain can be made of the snapshot's.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// The firmware's variables or the TPM's state could not be copied.
    #[error(transparent)]
    Files(#[from] DefineError),
    /// The disks are served on this host, and the domain would run elsewhere.
    #[error("{uri} is another host: a snapshot can be proved on this one only")]
    NotLocal {
        /// The daemon.
        uri: String,
    },
    /// What the guest writes finds no room.
    #[error(
        "the guest was stopped: what it writes finds no room in {folder}",
        folder = folder.display()
    )]
    NoRoom {
        /// Where it goes.
        folder: PathBuf,
    },
    /// Someone asked to stop.
    #[error("the proof was interrupted")]
    Cancelled,
    /// The system gives no random numbers.
    #[error("no random numbers for a name")]
    Random,
    /// A file could not be made or changed.
    #[error("cannot {op} {path}", path = path.display())]
    File {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl ProveError {
    /// Returns a closure that names what was tried on a path.
    pub(super) fn file(op: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { op, path, source }
    }
}

impl From<XmlError> for ProveError {
    fn from(error: XmlError) -> Self {
        Self::Rewrite(error.into())
    }
}
