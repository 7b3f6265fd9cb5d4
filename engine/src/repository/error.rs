//! Why a repository could not be used.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::crypto::UnlockError;
use crate::format::FormatError;
use crate::id::{ContentId, KeyId, NodeId, SnapshotId};
use crate::index::IndexError;
use crate::pack::PackError;
use crate::storage::{Name, StorageError};

/// A repository failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A pack failed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The index failed, and could not be rebuilt.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// There is no repository.
    #[error("there is no repository at {location}")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// There is something already where a repository was to be made.
    #[error("{location} is not empty")]
    NotEmpty {
        /// The place.
        location: String,
    },
    /// A stored document cannot be decoded.
    #[error("{object} is damaged or not supported")]
    Document {
        /// The object.
        object: Name,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A stored document is not the one that its name says.
    #[error("{object} does not match its name")]
    NameMismatch {
        /// The object.
        object: Name,
    },
    /// No key slot opens with the passphrase.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// A passphrase was given, and the repository says that it is not encrypted.
    #[error("a passphrase was given, but the repository is not encrypted")]
    NotEncrypted,
    /// This client knows the place as an encrypted repository's, and it says that it is none.
    #[error(
        "{location} was encrypted when it was opened from here last, and says now that it is not. \
         If you made it anew yourself, delete {}",
        proof.display()
    )]
    Downgraded {
        /// The repository's place.
        location: String,
        /// The copy of `config` that says so.
        proof: PathBuf,
    },
    /// The settings were changed by someone without the key.
    #[error("the settings in `config` fail their authentication")]
    ConfigForged,
    /// The last key slot cannot be removed.
    #[error("the last key slot cannot be removed")]
    LastKey,
    /// There is no such key slot.
    #[error("there is no key slot {0}")]
    NoSuchKey(KeyId),
    /// The repository is encrypted, and none of its key slots can be read.
    #[error("no key slot can be read")]
    NoKeySlots,
    /// This client keeps no copy of the settings.
    #[error("this client keeps no copy of `config`")]
    NoSpare,
    /// A key slot cannot be stored.
    #[error("the key slot cannot be described")]
    KeySlot(#[source] FormatError),
    /// No key could be derived from the passphrase.
    #[error("cannot derive a key from the passphrase")]
    Derivation(#[source] UnlockError),
    /// The session cannot be described.
    #[error("the session cannot be described")]
    Session(#[source] FormatError),
    /// Threads could not be started.
    #[error("cannot start a thread")]
    NoThread(#[source] std::io::Error),
    /// A recipe node is in no pack.
    #[error("recipe node {0} is in no pack")]
    MissingNode(NodeId),
    /// A recipe node is damaged.
    #[error("recipe node {node} is damaged")]
    DamagedNode {
        /// The node.
        node: NodeId,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A chunk is in no pack that can be read.
    #[error("chunk {chunk} at disk bytes {start}..{end} is in no pack", start = range.start,
        end = range.end)]
    MissingChunk {
        /// The chunk.
        chunk: ContentId,
        /// The disk bytes it holds.
        range: Range<u64>,
    },
    /// A chunk cannot be read back whole.
    #[error("cannot read chunk {chunk} at disk bytes {start}..{end}", start = range.start,
        end = range.end)]
    DamagedChunk {
        /// The chunk.
        chunk: ContentId,
        /// The disk bytes it holds.
        range: Range<u64>,
        /// What is wrong with its pack, or why that cannot be reached.
        source: Arc<PackError>,
    },
    /// A reader without a session has nowhere to keep its private files.
    #[error("cannot make {folder}, a folder for temporary files")]
    NoPrivateFolder {
        /// Where it was tried last.
        folder: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A snapshot went away while it was being opened.
    #[error("snapshot {0} is not there any more")]
    SnapshotGone(SnapshotId),
    /// A protected snapshot cannot be forgotten.
    #[error("snapshot {0} is protected")]
    Protected(SnapshotId),
    /// A snapshot that something counts on cannot be forgotten.
    #[error("snapshot {snapshot} is pinned by {pin}, which counts on it")]
    Pinned {
        /// The snapshot.
        snapshot: SnapshotId,
        /// What counts on it.
        pin: String,
    },
}

impl From<UnlockError> for RepositoryError {
    fn from(error: UnlockError) -> Self {
        match error {
            UnlockError::WrongPassword { .. } => Self::WrongPassphrase,
            error => Self::Derivation(error),
        }
    }
}

impl RepositoryError {
    /// Returns whether stored bytes are damaged or missing, as against out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Pack(error) => error.is_damage(),
            Self::Document { source, .. } => !matches!(
                source,
                FormatError::UnsupportedVersion { .. } | FormatError::UnsupportedFeature { .. }
            ),
            Self::NameMismatch { .. }
            | Self::ConfigForged
            | Self::Downgraded { .. }
            | Self::NoKeySlots
            | Self::MissingNode(_)
            | Self::DamagedNode { .. }
            | Self::MissingChunk { .. } => true,
            Self::DamagedChunk { source, .. } => source.is_loss(),
            Self::Storage(StorageError::ShortRead { .. } | StorageError::TooLong { .. }) => true,
            _ => false,
        }
    }

    /// Returns whether this process lacks something, files, memory or the right, which says nothing
    /// about what is stored.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_shortage(),
            Self::Pack(error) => error.is_shortage(),
            _ => false,
        }
    }

    /// Returns whether the bytes were written by a newer Cairn.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Document { source, .. } | Self::DamagedNode { source, .. } => matches!(
                source,
                FormatError::UnsupportedVersion { .. } | FormatError::UnsupportedFeature { .. }
            ),
            Self::Pack(source) => source.is_unsupported(),
            Self::DamagedChunk { source, .. } => source.is_unsupported(),
            _ => false,
        }
    }
}
