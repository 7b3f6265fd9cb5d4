//! Why the index failed.

use std::io;
use std::path::PathBuf;

use crate::spill::SpillError;

/// A failure of the index or of its private files. The repository is not touched by it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// RocksDB refused.
    #[error("cannot {op} the index in {}", .folder.display())]
    Database {
        /// What was tried, as a verb.
        op: &'static str,
        /// The database's folder.
        folder: PathBuf,
        /// RocksDB's reason.
        source: rocksdb::Error,
    },
    /// An entry has a form that this index never writes.
    #[error("the index in {} holds an entry of unknown form", .folder.display())]
    UnknownEntry {
        /// The database's folder.
        folder: PathBuf,
    },
    /// The system refused.
    #[error("cannot {op} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl From<SpillError> for IndexError {
    fn from(error: SpillError) -> Self {
        Self::Io {
            op: error.op,
            path: error.folder,
            source: error.source,
        }
    }
}

impl IndexError {
    /// Returns whether the system lacks something (space, files, memory) rather than the index
    /// being bad: a rebuild would not help.
    pub(super) fn is_shortage(&self) -> bool {
        match self {
            Self::Database { source, .. } => {
                // RocksDB hands on the system's text and nothing else.
                let text = source.to_string();
                ["No space left", "Too many open files", "Cannot allocate"]
                    .iter()
                    .any(|sign| text.contains(sign))
            }
            Self::UnknownEntry { .. } => false,
            Self::Io { .. } => true,
        }
    }
}
