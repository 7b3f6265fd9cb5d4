//! Why a collection stopped.

use std::io;
use std::sync::Arc;

use crate::id::{NodeId, SnapshotId};
use crate::pack::PackError;
use crate::pool::NoThread;
use crate::recipe::{NodeError, RecipeError};
use crate::repository::RepositoryError;
use crate::spill::SpillError;
use crate::storage::StorageError;

/// A collection that stopped. Nothing that a snapshot needs was deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A manifest cannot be read: nobody knows what it needs.
    #[error("snapshot {snapshot} cannot be read, so that nobody knows what it needs")]
    UnreadableSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Why not.
        source: Arc<RepositoryError>,
    },
    /// A recipe has a size that no disk has.
    #[error("snapshot {snapshot} holds a recipe that cannot be")]
    BadRecipe {
        /// The snapshot.
        snapshot: SnapshotId,
        /// What is wrong with it.
        source: RecipeError,
    },
    /// A recipe node cannot be had: nobody knows what is below it.
    #[error("recipe node {node} cannot be read, so that nobody knows what is below it")]
    Unwalkable {
        /// The node.
        node: NodeId,
        /// Why not.
        source: NodeError,
    },
    /// A recipe node does not stand where its recipe has it.
    #[error("recipe node {node} has level {found}, where level {expected} must be")]
    WrongLevel {
        /// The node.
        node: NodeId,
        /// The level it has.
        found: u8,
        /// The level of its place.
        expected: u8,
    },
    /// Chunks that snapshots need are in no pack.
    #[error("{0} chunks that snapshots need are in no readable pack")]
    Missing(u64),
    /// A temporary file failed.
    #[error(transparent)]
    Spill(#[from] SpillError),
    /// A thread could not be started.
    #[error(transparent)]
    NoThread(#[from] NoThread),
    /// The threads that write packs could not be started.
    #[error("cannot start a thread")]
    NoPacker(#[source] io::Error),
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl From<PackError> for GcError {
    fn from(error: PackError) -> Self {
        RepositoryError::from(error).into()
    }
}

impl From<StorageError> for GcError {
    fn from(error: StorageError) -> Self {
        RepositoryError::from(error).into()
    }
}

impl GcError {
    /// Returns whether stored bytes are damaged or missing.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Repository(error) => error.is_damage(),
            Self::UnreadableSnapshot { source, .. } => source.is_damage(),
            Self::Unwalkable { source, .. } => !matches!(source, NodeError::Failed { .. }),
            Self::WrongLevel { .. } | Self::BadRecipe { .. } | Self::Missing(_) => true,
            _ => false,
        }
    }

    /// Returns whether the medium is full.
    pub fn is_no_space(&self) -> bool {
        let is_full = |error: &StorageError| matches!(error, StorageError::NoSpace { .. });
        match self {
            Self::Repository(RepositoryError::Storage(error)) => is_full(error),
            Self::Repository(RepositoryError::Pack(PackError::Storage(error))) => is_full(error),
            _ => false,
        }
    }
}
