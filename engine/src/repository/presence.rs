//! Whether others can see that this process is at work, and where its private files go.
//!
//! Who cannot write to a repository cannot open a session in it, and must be able to read all the
//! same: from a file system that turned read-only because its disk is dying, from a storage
//! snapshot, with the right to read and no other. `docs/concurrency.md` argues what such a reader
//! may lose: never a byte that is wrong, at most a snapshot that is forgotten and taken meanwhile.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{Access, Repository, RepositoryError};
use crate::format::session::SessionKind;
use crate::id::SessionId;
use crate::storage::{Session, StorageError, make_private_folder};

/// Folder in this client's cache for the private files of readers without a session.
const UNSEEN: &str = "unseen";
/// Names that are drawn before giving up; each fails only if a cleaner comes between two calls.
const DRAWS_MAX: usize = 16;

/// Why a reader goes on without a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    /// The file system is read-only.
    ReadOnly,
    /// This user may not write there.
    Denied,
}

/// A process at work in a repository.
pub(super) enum Presence {
    /// Seen by others.
    Session {
        session: Box<dyn Session>,
        temp: PathBuf,
    },
    /// Seen by nobody: its id is in no folder, and storage takes nothing under it.
    Unseen {
        id: SessionId,
        why: Unseen,
        temp: PrivateFolder,
    },
}

impl Presence {
    /// Opens a session. Where none can be opened, who only reads goes on without one.
    pub(super) fn open(
        repository: &Repository,
        access: &Access,
        command: &str,
    ) -> Result<Self, RepositoryError> {
        let (kind, pins) = match access {
            Access::Read(pins) => (SessionKind::Reader, pins.clone()),
            Access::Upkeep => (SessionKind::Reader, Vec::new()),
            Access::Write => (SessionKind::Writer, Vec::new()),
        };
        let document = super::session_document(kind, command, pins)?;
        match (repository.storage().open_session(&document), access) {
            (Ok(session), _) => {
                repository.storage().clear_dead_sessions()?;
                let temp = repository.temp_folder(session.id())?;
                Ok(Self::Session { session, temp })
            }
            (Err(error @ StorageError::Unwritable { .. }), Access::Read(_)) => {
                let why = match error.is_denied() {
                    true => Unseen::Denied,
                    false => Unseen::ReadOnly,
                };
                Self::unseen(repository, why)
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    fn unseen(repository: &Repository, why: Unseen) -> Result<Self, RepositoryError> {
        let cache = repository.memory_file().with_file_name(UNSEEN);
        let (id, temp) = PrivateFolder::make(&cache).or_else(|error| {
            // The user's own folder may be on the same file system.
            let made = PrivateFolder::make_in(&std::env::temp_dir());
            made.map_err(|_| RepositoryError::NoPrivateFolder {
                folder: cache.clone(),
                source: error,
            })
        })?;
        Ok(Self::Unseen { id, why, temp })
    }

    /// Returns the id that names this process's files.
    pub(super) fn id(&self) -> SessionId {
        match self {
            Self::Session { session, .. } => session.id(),
            Self::Unseen { id, .. } => *id,
        }
    }

    /// Returns why others cannot see it, if they cannot.
    pub(super) fn why_unseen(&self) -> Option<Unseen> {
        match self {
            Self::Session { .. } => None,
            Self::Unseen { why, .. } => Some(*why),
        }
    }

    /// Returns the folder for its private files.
    pub(super) fn temp(&self) -> &Path {
        match self {
            Self::Session { temp, .. } => temp,
            Self::Unseen { temp, .. } => &temp.path,
        }
    }
}

/// A folder of this process alone, removed when dropped. It is locked while it is used, so that
/// those that the dead left are told from it.
pub(super) struct PrivateFolder {
    path: PathBuf,
    _lock: File,
}

impl PrivateFolder {
    /// Makes one in a folder that holds nothing else, and removes those of the dead there.
    fn make(parent: &Path) -> io::Result<(SessionId, Self)> {
        make_private_folder(parent)?;
        for entry in fs::read_dir(parent)?.flatten() {
            let is_ours = entry.file_name().to_str().map(str::parse::<SessionId>);
            if is_ours.is_some_and(|id| id.is_ok()) && lock(&entry.path()).is_ok() {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
        Self::draw(parent, "")
    }

    /// Makes one in a folder that all use.
    fn make_in(parent: &Path) -> io::Result<(SessionId, Self)> {
        Self::draw(parent, "cairn-")
    }

    fn draw(parent: &Path, prefix: &str) -> io::Result<(SessionId, Self)> {
        for _ in 0..DRAWS_MAX {
            let mut bytes = [0; SessionId::LEN];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            let id = SessionId::from_bytes(bytes);
            let path = parent.join(format!("{prefix}{id}"));
            DirBuilder::new().mode(0o700).create(&path)?;
            match lock(&path) {
                // A cleaner that was faster than the lock has removed it.
                Ok(lock) if path.exists() => return Ok((id, Self { path, _lock: lock })),
                _ => drop(fs::remove_dir_all(&path)),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // What cannot be removed goes when the next one is made.
        drop(fs::remove_dir_all(&self.path));
    }
}

/// Locks a folder that nobody else has locked.
fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_go_and_those_in_use_stay() {
        let parent = tempfile::tempdir().expect("there is a folder for temporary files");
        let parent = parent.path().join("unseen");
        let (dead, folder) = PrivateFolder::make(&parent).expect("the folder can be made");
        // As a kill leaves it: the kernel gives the lock up, and nobody removes anything.
        let PrivateFolder { path, .. } = &folder;
        let left = path.clone();
        fs::write(left.join("private"), b"x").expect("there is space");
        let (other, used) = PrivateFolder::make(&parent).expect("the folder can be made");
        assert!(left.exists() && used.path.exists() && dead != other);
        drop(folder);
        fs::create_dir(&left).expect("the name is free");
        fs::create_dir(parent.join("another's")).expect("the name is free");
        let (_, third) = PrivateFolder::make(&parent).expect("the folder can be made");
        assert!(!left.exists(), "nobody holds it");
        assert!(used.path.exists() && third.path.exists());
        assert!(parent.join("another's").exists(), "not one of ours");
        let path = used.path.clone();
        drop(used);
        assert!(!path.exists());
    }
}
