//! Reading nodes, with every check that a node's place allows.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::sync::Arc;

use super::{NodePlace, NodeStore, RecipeError, Shape};
use crate::chunker::ChunkRef;
use crate::format::recipe::{Child, Inner, Leaf, Node};
use crate::id::NodeId;
use crate::limits::REGION_LEN;

/// One disk's recipe, ready to be read.
#[derive(Clone, Copy)]
pub struct Recipe<'a> {
    store: &'a dyn NodeStore,
    shape: Shape,
    root: NodeId,
}

/// What the chunks below a node add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sums {
    pub(super) data_bytes: u64,
    pub(super) chunk_count: u64,
}

impl Sums {
    /// Adds, or returns `None` where no disk could have so much.
    fn add(self, data_bytes: u64, chunk_count: u64) -> Option<Self> {
        Some(Self {
            data_bytes: self.data_bytes.checked_add(data_bytes)?,
            chunk_count: self.chunk_count.checked_add(chunk_count)?,
        })
    }

    /// Sums up what a node holds.
    pub(super) fn of(node: &Node) -> Option<Self> {
        match node {
            Node::Leaf(leaf) => leaf
                .chunks
                .iter()
                .try_fold(Self::default(), |sums, chunk| sums.add(chunk.len.into(), 1)),
            Node::Inner(inner) => inner
                .children
                .iter()
                .try_fold(Self::default(), |sums, child| {
                    sums.add(child.data_bytes, child.chunk_count)
                }),
        }
    }
}

impl<'a> Recipe<'a> {
    /// Prepares to read the recipe with this root; reads nothing yet.
    pub fn new(store: &'a dyn NodeStore, shape: Shape, root: NodeId) -> Self {
        Self { store, shape, root }
    }

    /// Returns the geometry.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Returns the root's id.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// Returns whether the disk is one hole.
    pub fn is_empty(&self) -> bool {
        self.root == self.store.empty_leaf()
    }

    /// Reads the root.
    pub(super) fn root_node(&self) -> Result<Arc<Node>, RecipeError> {
        self.read(self.shape.root_place(), self.root, None)
    }

    /// Reads a child that stands at `place`.
    pub(super) fn child_node(
        &self,
        place: NodePlace,
        child: &Child,
    ) -> Result<Arc<Node>, RecipeError> {
        let sums = Sums {
            data_bytes: child.data_bytes,
            chunk_count: child.chunk_count,
        };
        self.read(place, child.id, Some(sums))
    }

    fn read(
        &self,
        place: NodePlace,
        id: NodeId,
        sums: Option<Sums>,
    ) -> Result<Arc<Node>, RecipeError> {
        let inconsistent = |rule| RecipeError::Inconsistent {
            node: id,
            place,
            rule,
        };
        if id == self.store.empty_leaf() {
            return Err(inconsistent("an all-hole subtree is left out"));
        }
        let node = self
            .store
            .node(id)
            .map_err(|source| RecipeError::Unreadable {
                node: id,
                place,
                source,
            })?;
        match &*node {
            Node::Leaf(leaf) => self.check_leaf(place, leaf),
            Node::Inner(inner) => self.check_inner(place, inner),
        }
        .map_err(inconsistent)?;
        let found = Sums::of(&node).ok_or_else(|| inconsistent("sums fit 64 bits"))?;
        if sums.is_some_and(|sums| sums != found) {
            return Err(inconsistent("sums equal what the node above says"));
        }
        Ok(node)
    }

    fn check_leaf(&self, place: NodePlace, leaf: &Leaf) -> Result<(), &'static str> {
        if place.level != 0 {
            return Err("a leaf stands at level 0");
        }
        if leaf.chunks.is_empty() {
            return Err("an all-hole subtree is left out");
        }
        let start = self.shape.bytes(place).start;
        for chunk in &leaf.chunks {
            let (offset, len) = (u64::from(chunk.offset), u64::from(chunk.len));
            if offset >= self.shape.window_len() {
                return Err("a chunk starts in its leaf's window");
            }
            if len == 0 || len > self.shape.window_len() {
                return Err("a chunk is no longer than a window");
            }
            // No overflow: `start` is at most the disk's size, the others at most a window.
            let first = start + offset;
            let last = first + len - 1;
            if last >= self.shape.size() {
                return Err("a chunk ends within the disk");
            }
            if first / REGION_LEN != last / REGION_LEN {
                return Err("a chunk crosses no region border");
            }
        }
        Ok(())
    }

    fn check_inner(&self, place: NodePlace, inner: &Inner) -> Result<(), &'static str> {
        if place.level != inner.level {
            return Err("the level is one less than that of the node above");
        }
        for child in &inner.children {
            if place.child(child.slot).windows().start >= self.shape.windows() {
                return Err("a child begins within the disk");
            }
            if child.data_bytes == 0 || child.chunk_count == 0 {
                return Err("an all-hole subtree is left out");
            }
        }
        Ok(())
    }
}

/// Returns the chunks of a leaf at `place`, at their disk offsets; an inner node has none.
pub(super) fn chunk_refs(
    shape: Shape,
    place: NodePlace,
    node: &Node,
) -> impl ExactSizeIterator<Item = ChunkRef> {
    let chunks = match node {
        Node::Leaf(leaf) => leaf.chunks.as_slice(),
        Node::Inner(_) => &[],
    };
    let start = shape.bytes(place).start;
    chunks.iter().map(move |chunk| ChunkRef {
        offset: start + u64::from(chunk.offset),
        len: chunk.len,
        id: chunk.id,
    })
}
