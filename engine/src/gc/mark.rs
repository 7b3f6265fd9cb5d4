//! Marking: every id that some snapshots need, by walking their recipes.
//!
//! Level by level from the roots, so that each distinct node is read once, in the order in which
//! nodes lie in packs, and so that what is still to be read is sorted on disk where it is too much
//! for memory.

use std::time::Instant;

use crate::format::recipe::Node;
use crate::id::{ContentId, NodeId};
use crate::recipe::{NodeStore, Shape};
use crate::repository::{Contents, Snapshot};
use crate::spill::{Record, Sorter};

use super::{GcError, GcEvent, GcOptions};

/// Nodes that are looked up at once.
const BATCH: usize = 16 * 1024;

impl Record for ContentId {
    const LEN: usize = ContentId::LEN;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        Self::from_bytes(bytes.try_into().expect("a record holds an id"))
    }
}

/// What snapshots need.
pub(super) struct Marked {
    /// The ids of chunks and nodes, some of them several times.
    pub(super) live: Sorter<ContentId>,
    /// Distinct nodes.
    pub(super) nodes: u64,
}

/// Marks what the recipes of `snapshots` need.
///
/// # Errors
///
/// A node that cannot be read: nobody knows what is below it.
pub(super) fn mark<'s>(
    contents: &Contents,
    snapshots: impl Iterator<Item = &'s Snapshot>,
    options: &GcOptions<'_>,
    sorters: &Sorters,
) -> Result<Marked, GcError> {
    let started = Instant::now();
    let mut levels = Vec::new();
    for snapshot in snapshots {
        add_roots(contents, snapshot, sorters, &mut levels)?;
    }
    let mut marked = Marked {
        live: sorters.make(2),
        nodes: 0,
    };
    while let Some(mut level) = levels.pop() {
        let number = u8::try_from(levels.len()).expect("recipes have few levels");
        let mut nodes = level.sorted()?.peekable();
        let mut last = None;
        while nodes.peek().is_some() {
            let mut batch: Vec<ContentId> = Vec::new();
            for node in nodes.by_ref() {
                let node = node?;
                if last.replace(node) != Some(node) {
                    batch.push(node);
                }
                if batch.len() == BATCH {
                    break;
                }
            }
            marked.nodes += batch.len() as u64;
            read_batch(
                contents,
                &batch,
                number,
                &mut marked.live,
                levels.last_mut(),
            )?;
            if options.cancel.is_cancelled() {
                return Err(GcError::Cancelled);
            }
        }
    }
    (options.observe)(GcEvent::Marked {
        nodes: marked.nodes,
        took: started.elapsed(),
    });
    Ok(marked)
}

/// Adds the roots of a snapshot's recipes to the levels that they stand on.
fn add_roots(
    contents: &Contents,
    snapshot: &Snapshot,
    sorters: &Sorters,
    levels: &mut Vec<Sorter<ContentId>>,
) -> Result<(), GcError> {
    let window_len = contents.repository().chunker().window_len();
    for recipe in snapshot.manifest.recipes() {
        if recipe.root == contents.empty_leaf() {
            continue;
        }
        let shape = Shape::new(recipe.size, window_len).map_err(|source| GcError::BadRecipe {
            snapshot: snapshot.id,
            source,
        })?;
        let level = usize::from(shape.height());
        while levels.len() <= level {
            levels.push(sorters.make(16));
        }
        levels[level].push(recipe.root.into())?;
    }
    Ok(())
}

/// Reads nodes of one level, in the order of their places.
fn read_batch(
    contents: &Contents,
    batch: &[ContentId],
    level: u8,
    live: &mut Sorter<ContentId>,
    mut below: Option<&mut Sorter<ContentId>>,
) -> Result<(), GcError> {
    let places = contents.places(batch)?;
    let mut nodes: Vec<_> = batch.iter().zip(places).collect();
    nodes.sort_by_key(|(_, place)| place.map(|(pack, place)| (pack, place.frame, place.slot)));
    for (id, place) in nodes {
        let node_id = NodeId::from_bytes(*id.as_bytes());
        let at_place = place.and_then(|(pack, place)| contents.node_at(node_id, pack, &place).ok());
        let node = match at_place {
            Some(node) => node,
            // The index is a cache: all packs are asked before anything is called missing.
            None => contents
                .node(node_id)
                .map_err(|source| GcError::Unwalkable {
                    node: node_id,
                    source,
                })?,
        };
        live.push(*id)?;
        match (&*node, below.as_deref_mut()) {
            (Node::Leaf(leaf), _) if level == 0 => {
                for chunk in &leaf.chunks {
                    live.push(chunk.id.into())?;
                }
            }
            (Node::Inner(inner), Some(below)) if inner.level == level => {
                for child in &inner.children {
                    below.push(child.id.into())?;
                }
            }
            (node, _) => {
                let found = match node {
                    Node::Leaf(_) => 0,
                    Node::Inner(inner) => inner.level,
                };
                return Err(GcError::WrongLevel {
                    node: node_id,
                    found,
                    expected: level,
                });
            }
        }
    }
    Ok(())
}

/// Makes sorters that share one bound of memory.
pub(super) struct Sorters {
    pub(super) memory: u64,
    pub(super) folder: std::path::PathBuf,
}

impl Sorters {
    /// Makes one that may hold so small a part of the memory.
    pub(super) fn make<R: Record>(&self, part: u64) -> Sorter<R> {
        Sorter::new(self.memory / part, &self.folder)
    }
}
