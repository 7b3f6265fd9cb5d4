//! Compares two recipes in time proportional to their difference: subtrees with one id are equal.

use std::ops::Range;
use std::sync::Arc;

use super::read::chunk_refs;
use super::{NodePlace, Recipe, RecipeError};
use crate::chunker::ChunkRef;
use crate::format::recipe::{Child, Node};
use crate::id::NodeId;

/// Returns the disk ranges in which two disks differ: ascending, neither overlapping nor touching.
///
/// Exact to whole chunks: a range holds every chunk that only one of the disks has at its offset.
/// Where the sizes differ, all that lies beyond the smaller one differs.
///
/// # Panics
///
/// Unless both recipes have the same window length.
pub fn diff(old: &Recipe<'_>, new: &Recipe<'_>) -> Result<Vec<Range<u64>>, RecipeError> {
    diff_in(old, new, 0..u64::MAX)
}

/// Returns what [`diff`] does, as far as it lies in `range`, in time proportional to the difference
/// there. At most one range for each two blocks of `range` is returned.
///
/// # Panics
///
/// Unless both recipes have the same window length.
pub fn diff_in(
    old: &Recipe<'_>,
    new: &Recipe<'_>,
    range: Range<u64>,
) -> Result<Vec<Range<u64>>, RecipeError> {
    assert!(
        old.shape().window_len() == new.shape().window_len(),
        "the recipes have different windows"
    );
    let (size_old, size_new) = (old.shape().size(), new.shape().size());
    let common = size_old.min(size_new);
    let mut comparison = Comparison {
        recipes: [old, new],
        range: range.start..range.end.min(common),
        differing: Vec::new(),
    };
    if !comparison.range.is_empty() {
        let top = old.shape().root_place().max(new.shape().root_place());
        comparison.compare(top, [old, new].map(|recipe| Side::top(recipe, top)))?;
    }
    let mut differing = comparison.differing;
    let tail = common.max(range.start)..size_old.max(size_new).min(range.end);
    push_merged(&mut differing, tail);
    Ok(differing)
}

/// One recipe's part of a place that is compared.
#[derive(Clone)]
enum Side {
    /// A hole, or beyond the disk.
    Hole,
    /// The root; the place may be above it, where the other recipe is higher.
    Root,
    /// A node below the root.
    Child(Child),
}

impl Side {
    fn top(recipe: &Recipe<'_>, top: NodePlace) -> Self {
        assert!(top.index == 0 && top.level >= recipe.shape().height());
        match recipe.is_empty() {
            true => Self::Hole,
            false => Self::Root,
        }
    }

    fn id(&self, recipe: &Recipe<'_>) -> Option<NodeId> {
        match self {
            Self::Hole => None,
            Self::Root => Some(recipe.root()),
            Self::Child(child) => Some(child.id),
        }
    }

    /// Reads the node, or returns `None` for a hole and above the root.
    fn read(
        &self,
        recipe: &Recipe<'_>,
        place: NodePlace,
    ) -> Result<Option<Arc<Node>>, RecipeError> {
        match self {
            Self::Hole => Ok(None),
            Self::Root if place != recipe.shape().root_place() => Ok(None),
            Self::Root => recipe.root_node().map(Some),
            Self::Child(child) => recipe.child_node(place, child).map(Some),
        }
    }

    /// Returns the part that the child in `slot` has.
    fn below(&self, node: Option<&Node>, slot: u8) -> Self {
        match (self, node) {
            (Self::Root, None) if slot == 0 => Self::Root,
            (_, Some(Node::Inner(inner))) => inner
                .children
                .binary_search_by_key(&slot, |child| child.slot)
                .map_or(Self::Hole, |found| Self::Child(inner.children[found])),
            _ => Self::Hole,
        }
    }
}

struct Comparison<'a> {
    recipes: [&'a Recipe<'a>; 2],
    /// The disk bytes asked about, of those that both disks have.
    range: Range<u64>,
    differing: Vec<Range<u64>>,
}

impl Comparison<'_> {
    /// Compares what two recipes have at a place; the trees' height bounds the recursion.
    fn compare(&mut self, place: NodePlace, sides: [Side; 2]) -> Result<(), RecipeError> {
        if !self.concerns(place) {
            return Ok(());
        }
        let [old, new] = &sides;
        // A root above its own level cannot equal a node there: a node's level is in its id.
        if old.id(self.recipes[0]) == new.id(self.recipes[1]) {
            return Ok(());
        }
        let nodes = [
            old.read(self.recipes[0], place)?,
            new.read(self.recipes[1], place)?,
        ];
        if place.level == 0 {
            self.compare_leaves(place, nodes.each_ref().map(Option::as_deref));
            return Ok(());
        }
        for slot in slots(&sides, &nodes) {
            let below = [
                old.below(nodes[0].as_deref(), slot),
                new.below(nodes[1].as_deref(), slot),
            ];
            self.compare(place.child(slot), below)?;
        }
        Ok(())
    }

    /// Returns whether chunks below a place can hold bytes of the range. The last of them may reach
    /// into the window behind.
    fn concerns(&self, place: NodePlace) -> bool {
        let window_len = self.recipes[0].shape().window_len();
        let windows = place.windows();
        let start = windows.start.saturating_mul(window_len);
        let end = windows.end.saturating_add(1).saturating_mul(window_len);
        start < self.range.end && self.range.start < end
    }

    fn compare_leaves(&mut self, place: NodePlace, nodes: [Option<&Node>; 2]) {
        let chunks = |side: usize| -> Vec<ChunkRef> {
            let shape = self.recipes[side].shape();
            nodes[side].map_or_else(Vec::new, |node| chunk_refs(shape, place, node).collect())
        };
        let (old, new) = (chunks(0), chunks(1));
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let chunk = match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(a), Some(b)) if a == b => {
                    old.next();
                    new.next();
                    continue;
                }
                (Some(a), Some(b)) if a.offset <= b.offset => old.next(),
                (Some(_), None) => old.next(),
                (_, Some(_)) => new.next(),
            };
            if let Some(chunk) = chunk {
                let start = chunk.offset.max(self.range.start);
                let end = chunk.end().min(self.range.end);
                push_merged(&mut self.differing, start..end);
            }
        }
    }
}

/// Returns the slots in which either side has something, in ascending order.
fn slots(sides: &[Side; 2], nodes: &[Option<Arc<Node>>; 2]) -> Vec<u8> {
    let mut slots = Vec::new();
    for (side, node) in sides.iter().zip(nodes) {
        match (side, node.as_deref()) {
            (_, Some(Node::Inner(inner))) => {
                slots.extend(inner.children.iter().map(|child| child.slot));
            }
            (Side::Root, None) => slots.push(0),
            _ => {}
        }
    }
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// Appends a range that starts no earlier than the last one does, joining them where they touch.
fn push_merged(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    match ranges.last_mut() {
        Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}
