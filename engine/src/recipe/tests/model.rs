//! A disk as a map of chunks, which builds recipes and knows what they must say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{
    Cause, NodeError, NodeSink, NodeStore, Recipe, RecipeBuilder, RecipeRoot, Shape,
};
use crate::chunker::ChunkRef;
use crate::format::recipe::{EMPTY_LEAF, Node};
use crate::id::{ChunkId, NodeId};
use crate::limits::REGION_LEN;

/// Windows so small that disks of a few GiB have recipes of many levels.
pub(super) const WINDOW: u64 = 4096;

pub(super) fn id_of(encoded: &[u8]) -> NodeId {
    NodeId::from_bytes(*blake3::hash(encoded).as_bytes())
}

/// Nodes in memory, with a count of reads.
#[derive(Default)]
pub(super) struct MemoryStore {
    pub(super) nodes: HashMap<NodeId, Vec<u8>>,
    pub(super) reads: AtomicU64,
}

impl MemoryStore {
    pub(super) fn add(&mut self, node: &Node) -> NodeId {
        let encoded = node.encode(WINDOW).expect("the test made a sound node");
        let id = id_of(&encoded);
        self.nodes.insert(id, encoded);
        id
    }

    pub(super) fn take_reads(&self) -> u64 {
        self.reads.swap(0, Ordering::Relaxed)
    }
}

impl NodeStore for MemoryStore {
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        assert_ne!(id, self.empty_leaf(), "the empty leaf is stored nowhere");
        self.reads.fetch_add(1, Ordering::Relaxed);
        let encoded = self.nodes.get(&id).ok_or(NodeError::Missing)?;
        match Node::decode(encoded, WINDOW) {
            Ok(node) => Ok(Arc::new(node)),
            Err(error) => Err(NodeError::Damaged {
                source: Box::new(error),
            }),
        }
    }

    fn empty_leaf(&self) -> NodeId {
        id_of(&EMPTY_LEAF)
    }
}

/// Nodes that a builder emitted.
#[derive(Default)]
pub(super) struct Emitted(pub(super) Vec<(NodeId, Vec<u8>)>);

impl NodeSink for Emitted {
    fn id_of(&self, encoded: &[u8]) -> NodeId {
        id_of(encoded)
    }

    fn put(&mut self, id: NodeId, encoded: Vec<u8>) -> Result<(), Cause> {
        assert_ne!(encoded, EMPTY_LEAF, "the empty leaf is stored nowhere");
        self.0.push((id, encoded));
        Ok(())
    }
}

/// A disk: its size, and its chunks by offset.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) size: u64,
    pub(super) chunks: BTreeMap<u64, ChunkRef>,
}

impl Model {
    pub(super) fn shape(&self) -> Shape {
        Shape::new(self.size, WINDOW).expect("tests use supported sizes")
    }

    /// Makes a disk whose chunks gather around a few places, many of them borders of subtrees.
    pub(super) fn random(rng: &mut fastrand::Rng) -> Self {
        let mut model = Self {
            size: random_size(rng),
            chunks: BTreeMap::new(),
        };
        for _ in 0..rng.u32(0..6) {
            model.edit(rng);
        }
        model
    }

    /// Replaces the chunks of a run of windows.
    pub(super) fn edit(&mut self, rng: &mut fastrand::Rng) {
        if self.size == 0 {
            return;
        }
        let windows = self.shape().windows();
        let level = 8 * rng.u32(0..4);
        let border = rng.u64(0..=windows >> level) << level;
        let first = border.saturating_sub(rng.u64(0..4)).min(windows - 1);
        let last = (first + rng.u64(0..8)).min(windows - 1);
        self.clear(first * WINDOW..(last + 1) * WINDOW);
        if rng.u8(0..5) > 0 {
            self.fill(rng, first * WINDOW..(last + 1) * WINDOW);
        }
    }

    /// Changes the size, dropping chunks that no longer fit.
    pub(super) fn resize(&mut self, rng: &mut fastrand::Rng) {
        self.size = match rng.bool() {
            true => random_size(rng),
            false => (self.size + rng.u64(0..3 * WINDOW)).saturating_sub(rng.u64(0..3 * WINDOW)),
        };
        self.size = self.size.min(WINDOW << 32);
        let size = self.size;
        self.chunks.retain(|_, chunk| chunk.end() <= size);
    }

    fn clear(&mut self, range: Range<u64>) {
        self.chunks
            .retain(|_, chunk| chunk.end() <= range.start || chunk.offset >= range.end);
    }

    fn fill(&mut self, rng: &mut fastrand::Rng, range: Range<u64>) {
        let dense = rng.bool();
        let mut offset = range.start;
        loop {
            if !dense || rng.u8(0..8) == 0 {
                offset += rng.u64(0..WINDOW);
            }
            let region_end = (offset / REGION_LEN + 1) * REGION_LEN;
            let next = self
                .chunks
                .range(offset..)
                .next()
                .map_or(u64::MAX, |(next, _)| *next);
            let limit = self.size.min(region_end).min(next);
            if offset >= range.end || offset >= limit {
                return;
            }
            let len = rng.u64(1..=WINDOW).min(limit - offset);
            let chunk = ChunkRef {
                offset,
                len: u32::try_from(len).expect("at most a window"),
                id: ChunkId::from_bytes([rng.u8(0..4); 32]),
            };
            self.chunks.insert(offset, chunk);
            offset += len;
        }
    }

    /// Returns the chunks that start in a range.
    pub(super) fn starting_in(&self, range: Range<u64>) -> Vec<ChunkRef> {
        self.chunks.range(range).map(|(_, chunk)| *chunk).collect()
    }

    pub(super) fn all(&self) -> Vec<ChunkRef> {
        self.chunks.values().copied().collect()
    }

    /// Returns the chunks that hold bytes of a range.
    pub(super) fn overlapping(&self, range: &Range<u64>) -> Vec<ChunkRef> {
        if range.is_empty() {
            return Vec::new();
        }
        let overlaps = |chunk: &&ChunkRef| chunk.offset < range.end && chunk.end() > range.start;
        self.chunks.values().filter(overlaps).copied().collect()
    }

    pub(super) fn occupied_windows(&self) -> BTreeSet<u64> {
        self.chunks.keys().map(|offset| offset / WINDOW).collect()
    }

    /// Returns the windows that an incremental over `parent` must set.
    pub(super) fn dirty_windows(&self, parent: &Self) -> BTreeSet<u64> {
        let windows = self.shape().windows();
        let mut dirty: BTreeSet<u64> = self
            .differing(parent)
            .map(|chunk| chunk.offset / WINDOW)
            .filter(|window| *window < windows)
            .collect();
        if self.size != parent.size {
            let first = self.size.min(parent.size) / WINDOW;
            dirty.extend(self.occupied_windows().range(first..));
        }
        dirty
    }

    /// Returns the chunks that only one of two disks has at its offset.
    fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a ChunkRef> {
        let only = |a: &'a Self, b: &'a Self| {
            let differs = |chunk: &&ChunkRef| b.chunks.get(&chunk.offset) != Some(*chunk);
            a.chunks.values().filter(differs)
        };
        only(self, other).chain(only(other, self))
    }

    /// Returns the ranges in which two disks differ, from a list of all that differ.
    pub(super) fn diff(&self, other: &Self) -> Vec<Range<u64>> {
        let (small, large) = (self.size.min(other.size), self.size.max(other.size));
        let mut all: Vec<Range<u64>> = self
            .differing(other)
            .map(|chunk| chunk.offset..chunk.end())
            .chain(std::iter::once(small..large))
            .filter(|range| !range.is_empty())
            .collect();
        all.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in all {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }

    /// Builds the recipe by itself, into `store`.
    pub(super) fn build_full(&self, store: &mut MemoryStore) -> RecipeRoot {
        let mut emitted = Emitted::default();
        let mut builder = RecipeBuilder::new(self.shape(), &mut emitted, None);
        for window in self.occupied_windows() {
            let chunks = self.starting_in(window * WINDOW..(window + 1) * WINDOW);
            builder
                .set_window(window, &chunks)
                .expect("nothing is read");
        }
        let root = builder.finish().expect("nothing is read");
        store.nodes.extend(emitted.0);
        root
    }

    /// Builds the recipe on top of a parent's, setting `windows`; returns what was emitted.
    pub(super) fn build_on(
        &self,
        parent: Recipe<'_>,
        windows: &BTreeSet<u64>,
    ) -> (RecipeRoot, Emitted) {
        let mut emitted = Emitted::default();
        let mut builder = RecipeBuilder::new(self.shape(), &mut emitted, Some(parent));
        for window in windows {
            let chunks = self.starting_in(window * WINDOW..(window + 1) * WINDOW);
            builder
                .set_window(*window, &chunks)
                .expect("the parent is sound");
        }
        let root = builder.finish().expect("the parent is sound");
        (root, emitted)
    }
}

fn random_size(rng: &mut fastrand::Rng) -> u64 {
    let level = 8 * rng.u32(0..5);
    let windows = rng.u64(1..4) << level;
    match rng.u8(0..4) {
        0 => rng.u64(0..3 * WINDOW),
        1 => windows * WINDOW,
        2 => windows * WINDOW - rng.u64(0..WINDOW),
        _ => (windows + rng.u64(0..300)) * WINDOW + rng.u64(0..WINDOW),
    }
    .min(WINDOW << 32)
}
