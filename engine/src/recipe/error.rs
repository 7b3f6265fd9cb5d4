//! Why a recipe could not be read or built.

use std::error::Error;

use super::NodePlace;
use crate::id::NodeId;

/// A failure of whatever keeps the nodes.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a [`NodeStore`](super::NodeStore) could not give a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// No pack has it.
    #[error("it is in no pack")]
    Missing,
    /// It is there, and its stored bytes are not what they were.
    #[error("its stored bytes are damaged")]
    Damaged {
        /// How that showed.
        source: Cause,
    },
    /// Reading failed, which says nothing about the stored bytes.
    #[error("reading it failed")]
    Failed {
        /// The storage's reason.
        source: Cause,
    },
}

/// A recipe failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// A node cannot be had.
    #[error("cannot read recipe node {node} ({place})")]
    Unreadable {
        /// The node.
        node: NodeId,
        /// Where it stands in the tree.
        place: NodePlace,
        /// Why not.
        source: NodeError,
    },
    /// A node is sound by itself, and cannot stand where it does.
    #[error("recipe node {node} ({place}) breaks a rule: {rule}")]
    Inconsistent {
        /// The node.
        node: NodeId,
        /// Where it stands in the tree.
        place: NodePlace,
        /// The rule, as a sentence without a stop.
        rule: &'static str,
    },
    /// A new node could not be stored.
    #[error("cannot store recipe node {node} ({place})")]
    Unwritable {
        /// The node.
        node: NodeId,
        /// Where it stands in the tree.
        place: NodePlace,
        /// The storage's reason.
        source: Cause,
    },
    /// The disk is larger than any that is supported.
    #[error("a disk of {size} bytes is larger than the {limit} that are supported")]
    DiskTooLarge {
        /// The disk's size in bytes.
        size: u64,
        /// The largest size in bytes.
        limit: u64,
    },
}

impl RecipeError {
    /// Returns whether this is damage to the repository, not trouble in reaching it.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } => !matches!(source, NodeError::Failed { .. }),
            Self::Inconsistent { .. } => true,
            Self::Unwritable { .. } | Self::DiskTooLarge { .. } => false,
        }
    }

    /// Returns which node cannot be had or cannot stand where it does.
    pub fn place(&self) -> Option<NodePlace> {
        match self {
            Self::Unreadable { place, .. } | Self::Inconsistent { place, .. } => Some(*place),
            Self::Unwritable { .. } | Self::DiskTooLarge { .. } => None,
        }
    }
}
