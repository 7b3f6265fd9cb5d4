//! Iterates over the chunks of a disk range, and over its regions. Holes cost nothing: a subtree
//! that is left out is never visited.

use std::iter::{FusedIterator, Peekable};
use std::ops::Range;
use std::sync::Arc;

use super::read::chunk_refs;
use super::{NodePlace, Recipe, RecipeError};
use crate::chunker::ChunkRef;
use crate::format::recipe::Node;
use crate::id::NodeId;
use crate::limits::REGION_LEN;

impl<'a> Recipe<'a> {
    /// Returns the chunks that hold bytes of `range`, in disk order. What lies between them is a
    /// hole.
    ///
    /// Ends after the first error.
    pub fn chunks_in(&self, range: Range<u64>) -> Chunks<'a> {
        self.chunks(range, None)
    }

    /// Does the same past what is lost: each fault goes to `faults`, and what is below the node
    /// that it names is left out. Ends after the first error that `faults` does not take.
    pub fn chunks_past(&self, range: Range<u64>, faults: Faults<'a>) -> Chunks<'a> {
        self.chunks(range, Some(faults))
    }

    fn chunks(&self, range: Range<u64>, faults: Option<Faults<'a>>) -> Chunks<'a> {
        let window_len = self.shape().window_len();
        let end = range.end.min(self.shape().size());
        // A chunk is no longer than a window, so it can reach in from the leaf before only.
        let first = (range.start / window_len).saturating_sub(1);
        let windows = match range.start < end {
            true => first..end.div_ceil(window_len),
            false => 0..0,
        };
        Chunks {
            leaves: Leaves::new(*self, windows, faults),
            leaf: None,
            decided: 0,
            range: range.start..end,
        }
    }

    /// Returns the regions that have chunks, in disk order, each with all of its chunks.
    ///
    /// Ends after the first error.
    pub fn regions(&self) -> Regions<'a> {
        Regions {
            chunks: self.chunks_in(0..self.shape().size()).peekable(),
        }
    }

    /// Does the same past what is lost, as [`Recipe::chunks_past`] does.
    pub fn regions_past(&self, faults: Faults<'a>) -> Regions<'a> {
        let chunks = self.chunks_past(0..self.shape().size(), faults);
        Regions {
            chunks: chunks.peekable(),
        }
    }
}

/// Takes a fault of a recipe in, or gives it back where the walk is to end with it.
pub type Faults<'f> = &'f (dyn Fn(RecipeError) -> Result<(), RecipeError> + Sync);

/// The chunks of a disk range; see [`Recipe::chunks_in`].
pub struct Chunks<'a> {
    leaves: Leaves<'a>,
    leaf: Option<OpenLeaf>,
    /// Where the chunk before ends.
    decided: u64,
    range: Range<u64>,
}

struct OpenLeaf {
    leaf: LeafAt,
    chunks: std::vec::IntoIter<ChunkRef>,
}

impl Chunks<'_> {
    fn end(&mut self) {
        self.leaf = None;
        self.range = 0..0;
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<ChunkRef, RecipeError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.range.is_empty() {
            let Some(open) = &mut self.leaf else {
                match self.leaves.next()? {
                    Ok(leaf) => {
                        let shape = self.leaves.recipe.shape();
                        let chunks: Vec<_> = chunk_refs(shape, leaf.place, &leaf.node).collect();
                        let chunks = chunks.into_iter();
                        self.leaf = Some(OpenLeaf { leaf, chunks });
                    }
                    Err(error) => {
                        self.end();
                        return Some(Err(error));
                    }
                }
                continue;
            };
            let Some(chunk) = open.chunks.next() else {
                self.leaf = None;
                continue;
            };
            if chunk.offset < self.decided {
                if let Err(error) = self.leaves.pass(open.leaf.overlap()) {
                    self.end();
                    return Some(Err(error));
                }
                self.leaf = None;
                continue;
            }
            self.decided = chunk.end();
            if chunk.offset >= self.range.end {
                self.end();
            } else if self.decided > self.range.start {
                return Some(Ok(chunk));
            }
        }
        None
    }
}

impl FusedIterator for Chunks<'_> {}

/// The chunks of one region that has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionChunks {
    /// Disk offset of the region's first byte.
    pub start: u64,
    /// All chunks in it, in disk order.
    pub chunks: Vec<ChunkRef>,
}

impl RegionChunks {
    /// Returns the runs of bytes that chunks cover without a hole between them.
    pub fn data_runs(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for chunk in &self.chunks {
            let end = chunk.end();
            match runs.last_mut() {
                Some(run) if run.end == chunk.offset => run.end = end,
                _ => runs.push(chunk.offset..end),
            }
        }
        runs
    }
}

/// The regions of a disk; see [`Recipe::regions`].
pub struct Regions<'a> {
    chunks: Peekable<Chunks<'a>>,
}

impl Iterator for Regions<'_> {
    type Item = Result<RegionChunks, RecipeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.chunks.next()? {
            Ok(chunk) => chunk,
            Err(error) => return Some(Err(error)),
        };
        let start = first.offset / REGION_LEN * REGION_LEN;
        let mut chunks = vec![first];
        let here = |next: &Result<ChunkRef, RecipeError>| match next {
            Ok(chunk) => chunk.offset - start < REGION_LEN,
            Err(_) => true,
        };
        while let Some(next) = self.chunks.next_if(here) {
            match next {
                Ok(chunk) => chunks.push(chunk),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(RegionChunks { start, chunks }))
    }
}

/// A leaf, with its place.
pub(super) struct LeafAt {
    pub(super) place: NodePlace,
    pub(super) id: NodeId,
    pub(super) node: Arc<Node>,
}

impl LeafAt {
    /// Returns the error that its first chunk begins before the last one of the leaf before ends.
    fn overlap(&self) -> RecipeError {
        RecipeError::Inconsistent {
            node: self.id,
            place: self.place,
            rule: "chunks of neighbouring leaves do not overlap",
        }
    }
}

/// The leaves of a range of windows, in disk order.
struct Leaves<'a> {
    recipe: Recipe<'a>,
    windows: Range<u64>,
    started: bool,
    /// The inner nodes on the way to the next leaf, each with its next child.
    path: Vec<OpenInner>,
    /// Who takes faults in; without one the first ends the walk.
    faults: Option<Faults<'a>>,
}

struct OpenInner {
    place: NodePlace,
    node: Arc<Node>,
    next: usize,
}

impl<'a> Leaves<'a> {
    fn new(recipe: Recipe<'a>, windows: Range<u64>, faults: Option<Faults<'a>>) -> Self {
        Self {
            recipe,
            windows,
            started: false,
            path: Vec::new(),
            faults,
        }
    }

    /// Goes on past a fault, where someone takes it in.
    fn pass(&self, fault: RecipeError) -> Result<(), RecipeError> {
        match self.faults {
            Some(faults) => faults(fault),
            None => Err(fault),
        }
    }

    /// Takes a node: returns it if it is a leaf, and goes below it otherwise.
    fn enter(&mut self, place: NodePlace, id: NodeId, node: Arc<Node>) -> Option<LeafAt> {
        match &*node {
            Node::Leaf(_) => Some(LeafAt { place, id, node }),
            Node::Inner(inner) => {
                let next = inner.children.partition_point(|child| {
                    place.child(child.slot).windows().end <= self.windows.start
                });
                self.path.push(OpenInner { place, node, next });
                None
            }
        }
    }

    fn first(&mut self) -> Result<Option<LeafAt>, RecipeError> {
        self.started = true;
        if self.windows.is_empty() || self.recipe.is_empty() {
            return Ok(None);
        }
        let node = match self.recipe.root_node() {
            Ok(node) => node,
            Err(fault) => return self.pass(fault).map(|()| None),
        };
        let place = self.recipe.shape().root_place();
        Ok(self.enter(place, self.recipe.root(), node))
    }

    fn advance(&mut self) -> Result<Option<LeafAt>, RecipeError> {
        if !self.started
            && let Some(leaf) = self.first()?
        {
            return Ok(Some(leaf));
        }
        while let Some(open) = self.path.last_mut() {
            let Node::Inner(inner) = &*open.node else {
                unreachable!("only inner nodes are on the path");
            };
            let Some(child) = inner.children.get(open.next) else {
                self.path.pop();
                continue;
            };
            open.next += 1;
            let place = open.place.child(child.slot);
            if place.windows().start >= self.windows.end {
                self.path.clear();
                break;
            }
            let id = child.id;
            let node = match self.recipe.child_node(place, child) {
                Ok(node) => node,
                Err(fault) => {
                    self.pass(fault)?;
                    continue;
                }
            };
            if let Some(leaf) = self.enter(place, id, node) {
                return Ok(Some(leaf));
            }
        }
        Ok(None)
    }
}

impl Iterator for Leaves<'_> {
    type Item = Result<LeafAt, RecipeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let leaf = self.advance();
        if leaf.is_err() {
            self.path.clear();
        }
        leaf.transpose()
    }
}
