//! Why storage failed.

use std::io;

use rustix::io::Errno;

use super::Name;

/// A storage failure. `object` is a path below the repository's root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The system refused.
    #[error("cannot {op} {object}")]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The object, as a path.
        object: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The medium is full.
    #[error("no space left to {op} {object}")]
    NoSpace {
        /// What was tried, as a verb.
        op: &'static str,
        /// The object, as a path.
        object: String,
    },
    /// This process may not write: the file system is read-only, or the user has no right to.
    #[error("nothing can be written to {location}")]
    Unwritable {
        /// The folder.
        location: String,
        /// The system's reason.
        source: io::Error,
    },
    /// There is no such object.
    #[error("{0} is not there")]
    NotFound(Name),
    /// There is such an object already.
    #[error("{0} exists already")]
    Exists(Name),
    /// The object ends before the bytes wanted.
    #[error("{name} ends before byte {end}")]
    ShortRead {
        /// The object.
        name: Name,
        /// The end of the bytes wanted.
        end: u64,
    },
    /// The object is longer than its kind may be.
    #[error("{name} has {len} bytes, more than the {limit} that it may have")]
    TooLong {
        /// The object.
        name: Name,
        /// Its length.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// An earlier failure left this writer unusable.
    #[error("an earlier write to {object} failed")]
    PreviousFailure {
        /// The object, as a path.
        object: String,
        /// The system's reason then, where it is known.
        source: Option<io::Error>,
    },
    /// Someone else holds what is needed.
    #[error("{object} is locked by another process")]
    Locked {
        /// The lock, as a path.
        object: String,
    },
    /// A repository was to be made where something is already.
    #[error("{location} is not empty")]
    NotEmpty {
        /// The folder.
        location: String,
    },
    /// The medium cannot keep a repository.
    #[error("{location} is on {kind}, which cannot keep a repository safely")]
    Unsuitable {
        /// The folder.
        location: String,
        /// The kind of file system.
        kind: String,
    },
}

impl StorageError {
    /// Returns whether this process lacks something, files, memory or the right, which says nothing
    /// about the object.
    pub fn is_shortage(&self) -> bool {
        self.is_errno(&[Errno::MFILE, Errno::NFILE, Errno::NOMEM]) || self.is_denied()
    }

    /// Returns whether the medium cannot give an object's bytes back: they are gone, or in a bad
    /// sector.
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::NotFound(_) | Self::ShortRead { .. } | Self::TooLong { .. }
        ) || self.is_errno(&[Errno::IO])
    }

    /// Returns whether the system refused because nothing can be written: a file system that is
    /// read-only, or a lack of rights.
    pub(super) fn is_unwritable(&self) -> bool {
        self.is_errno(&[Errno::ROFS, Errno::ACCESS, Errno::PERM])
    }

    /// Returns whether the user may not, as against cannot.
    pub fn is_denied(&self) -> bool {
        self.is_errno(&[Errno::ACCESS, Errno::PERM])
    }

    fn is_errno(&self, known: &[Errno]) -> bool {
        match self {
            Self::Io { source, .. } | Self::Unwritable { source, .. } => source
                .raw_os_error()
                .is_some_and(|errno| known.iter().any(|known| known.raw_os_error() == errno)),
            _ => false,
        }
    }

    /// Names what failed. Full media and exhausted quotas are one situation.
    pub(crate) fn from_io(op: &'static str, object: &str, source: io::Error) -> Self {
        let object = object.to_owned();
        let full = [Errno::NOSPC, Errno::DQUOT].map(Errno::raw_os_error);
        if source
            .raw_os_error()
            .is_some_and(|errno| full.contains(&errno))
        {
            return Self::NoSpace { op, object };
        }
        Self::Io { op, object, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_full_quota_are_no_space() {
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let error = StorageError::from_io("write", "config", errno.into());
            assert!(matches!(error, StorageError::NoSpace { op: "write", .. }));
        }
        let error = StorageError::from_io("write", "config", Errno::IO.into());
        assert!(matches!(error, StorageError::Io { .. }));
    }

    #[test]
    fn a_bad_sector_is_a_loss_and_a_lack_of_files_or_rights_is_not() {
        let error = |errno: Errno| StorageError::from_io("read", "packs/00", errno.into());
        assert!(error(Errno::IO).is_loss() && !error(Errno::IO).is_shortage());
        assert!(error(Errno::MFILE).is_shortage() && !error(Errno::MFILE).is_loss());
        assert!(error(Errno::ACCESS).is_shortage() && !error(Errno::ACCESS).is_loss());
        assert!(StorageError::NotFound(Name::Config).is_loss());
    }
}
