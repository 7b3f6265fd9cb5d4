//! Follows recipes from all their roots at once, level by level, so that each distinct node is read
//! once, when all who refer to it are known.

use std::collections::{BTreeMap, HashMap};
use std::mem;

use super::sets::{SetId, Sets};
use super::slots::Slots;
use super::totals::StatsError;
use crate::format::recipe::Node;
use crate::id::{ContentId, NodeId};
use crate::progress::Cancel;
use crate::recipe::{NodeError, NodeStore, Shape};
use crate::repository::{Contents, Snapshot};

/// Contents that are looked up at once, in the order of their packs.
const BATCH: usize = 64 * 1024;

/// The walk over all recipes.
pub(super) struct Walk<'w> {
    contents: &'w Contents,
    cancel: &'w Cancel,
    pub(super) sets: Sets,
    pub(super) slots: Slots,
    /// Nodes still to be read, by their level, with who refers to them.
    levels: BTreeMap<u8, HashMap<NodeId, SetId>>,
    chunks: Vec<(ContentId, SetId)>,
    /// Nodes that cannot be read: what is below them is not counted.
    pub(super) lost_nodes: u64,
    /// References to chunks that no pack has.
    pub(super) lost_chunks: u64,
}

impl<'w> Walk<'w> {
    pub(super) fn new(contents: &'w Contents, slots: Slots, cancel: &'w Cancel) -> Self {
        Self {
            contents,
            cancel,
            sets: Sets::new(),
            slots,
            levels: BTreeMap::new(),
            chunks: Vec::new(),
            lost_nodes: 0,
            lost_chunks: 0,
        }
    }

    /// Adds the recipes of a snapshot.
    pub(super) fn add(&mut self, snapshot: &Snapshot, owner: u32) {
        let owner = self.sets.of(owner);
        let window_len = self.contents.repository().chunker().window_len();
        for recipe in snapshot.manifest.recipes() {
            if recipe.root == self.contents.empty_leaf() {
                continue;
            }
            match Shape::new(recipe.size, window_len) {
                Ok(shape) => self.meet(shape.root_place().level, recipe.root, owner),
                Err(_) => self.lost_nodes += 1,
            }
        }
    }

    fn meet(&mut self, level: u8, node: NodeId, owners: SetId) {
        let nodes = self.levels.entry(level).or_default();
        let known = nodes.entry(node).or_default();
        *known = self.sets.union(*known, owners);
    }

    /// Reads all nodes, from the highest level down to the leaves.
    pub(super) fn run(&mut self) -> Result<(), StatsError> {
        while let Some((level, nodes)) = self.levels.pop_last() {
            let nodes: Vec<_> = nodes.into_iter().collect();
            for batch in nodes.chunks(BATCH) {
                self.read(level, batch)?;
            }
        }
        self.look_up()
    }

    fn read(&mut self, level: u8, batch: &[(NodeId, SetId)]) -> Result<(), StatsError> {
        let ids: Vec<ContentId> = batch.iter().map(|(node, _)| (*node).into()).collect();
        let places = self.contents.places(&ids)?;
        let mut placed: Vec<_> = batch.iter().zip(places).collect();
        // Nodes of one frame come one after the other, so that it is decoded once.
        placed.sort_unstable_by_key(|(_, place)| {
            place.map(|(pack, place)| (pack, place.frame, place.slot))
        });
        for ((node, owners), place) in placed {
            if self.cancel.is_cancelled() {
                return Err(StatsError::Cancelled);
            }
            if let Some((pack, place)) = &place {
                self.slots.own(*pack, place, *owners, &mut self.sets);
            }
            let at_place = place.and_then(|(pack, place)| {
                let node = self.contents.node_at(*node, pack, &place);
                node.ok()
            });
            let read = match at_place {
                Some(node) => Ok(node),
                // Wherever else it may be.
                None => self.contents.node(*node),
            };
            match read {
                Ok(found) => self.follow(level, &found, *owners)?,
                Err(source @ NodeError::Failed { .. }) => {
                    let node = *node;
                    return Err(StatsError::Node { node, source });
                }
                Err(_) => self.lost_nodes += 1,
            }
        }
        Ok(())
    }

    fn follow(&mut self, level: u8, node: &Node, owners: SetId) -> Result<(), StatsError> {
        match node {
            Node::Inner(inner) if inner.level == level && level > 0 => {
                for child in &inner.children {
                    self.meet(level - 1, child.id, owners);
                }
            }
            Node::Leaf(leaf) if level == 0 => {
                let chunks = leaf.chunks.iter();
                self.chunks
                    .extend(chunks.map(|chunk| (chunk.id.into(), owners)));
                if self.chunks.len() >= BATCH {
                    self.look_up()?;
                }
            }
            // Not what should stand here; verify names it.
            _ => self.lost_nodes += 1,
        }
        Ok(())
    }

    /// Looks the chunks up that were met, and notes their owners.
    fn look_up(&mut self) -> Result<(), StatsError> {
        let mut batch = mem::take(&mut self.chunks);
        batch.sort_unstable();
        let mut chunks: Vec<(ContentId, SetId)> = Vec::with_capacity(batch.len());
        for (chunk, owners) in batch.drain(..) {
            match chunks.last_mut() {
                Some((last, known)) if *last == chunk => *known = self.sets.union(*known, owners),
                _ => chunks.push((chunk, owners)),
            }
        }
        self.chunks = batch;
        let ids: Vec<ContentId> = chunks.iter().map(|(chunk, _)| *chunk).collect();
        let places = self.contents.places(&ids)?;
        for ((_, owners), place) in chunks.into_iter().zip(places) {
            match place {
                Some((pack, place)) => self.slots.own(pack, &place, owners, &mut self.sets),
                None => self.lost_chunks += 1,
            }
        }
        Ok(())
    }
}
