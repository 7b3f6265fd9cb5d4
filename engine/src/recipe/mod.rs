//! The tree that reproduces one disk: build, walk, compare.
//!
//! A recipe is keyed by disk offset, so it depends only on the disk's bytes and the repository's
//! chunker settings, and two recipes share every subtree in which their disks agree. The bytes of
//! a node are `format::recipe`'s; where nodes are kept is behind [`NodeStore`] and [`NodeSink`].
//! See "Recipe" in `docs/format.md`.

mod builder;
mod diff;
mod error;
mod read;
mod shape;
#[cfg(test)]
mod tests;
mod visit;
mod walker;

use std::sync::Arc;

pub use builder::{RecipeBuilder, RecipeRoot};
pub use diff::{diff, diff_in};
pub use error::{Cause, NodeError, RecipeError};
pub use read::Recipe;
pub use shape::{NodePlace, Shape};
pub use visit::NodeVisitor;
pub use walker::{Chunks, Faults, RegionChunks, Regions};

use crate::format::recipe::Node;
use crate::id::NodeId;

/// Where recipe nodes are read from. Shared by threads.
pub trait NodeStore: Send + Sync {
    /// Returns a node whose bytes were checked against its id, and decoded for the repository's
    /// window. What the node says is not trusted: the reader checks it against its place.
    ///
    /// Never asked for [`NodeStore::empty_leaf`].
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError>;

    /// Returns the id of the leaf without chunks, the root of every disk that is one hole. That
    /// node is stored nowhere.
    fn empty_leaf(&self) -> NodeId;
}

/// Where new recipe nodes go.
pub trait NodeSink: Send {
    /// Returns the id that a node's encoded bytes have in this repository.
    fn id_of(&self, encoded: &[u8]) -> NodeId;

    /// Takes a node in. Equal nodes may come more than once, and may be in the repository already.
    fn put(&mut self, id: NodeId, encoded: Vec<u8>) -> Result<(), Cause>;
}
