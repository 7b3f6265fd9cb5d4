//! Builds a recipe from its windows in ascending order, on top of a parent's where there is one.
//!
//! Holds one open node for each level, and one path of the parent's nodes: memory depends on the
//! tree's height alone. Since a place covers the same windows in every recipe, a subtree of the
//! parent is taken over by its id, unread, as long as both disks have all of its windows.

use std::sync::Arc;

use super::read::{Recipe, Sums};
use super::{NodePlace, NodeSink, RecipeError, Shape};
use crate::chunker::ChunkRef;
use crate::format::recipe::{Child, EMPTY_LEAF, Inner, Leaf, LeafChunk, Node};
use crate::id::NodeId;
use crate::limits::{NODE_LEVEL_MAX, REGION_LEN};

const LEVELS: usize = NODE_LEVEL_MAX as usize + 1;

/// A finished recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipeRoot {
    /// The root's id.
    pub id: NodeId,
    /// Bytes of the disk that chunks cover.
    pub data_bytes: u64,
    /// Number of chunk references.
    pub chunk_count: u64,
}

/// Builds one recipe. After an error it must be dropped.
pub struct RecipeBuilder<'a> {
    shape: Shape,
    sink: &'a mut dyn NodeSink,
    parent: Option<Parent<'a>>,
    /// Windows before this one are decided.
    next: u64,
    /// The unfinished inner node of each level; that of level 0 is never used.
    open: [OpenNode; LEVELS],
    root: Option<Child>,
}

/// An inner node whose children are still coming.
#[derive(Default)]
struct OpenNode {
    index: u64,
    children: Vec<Child>,
}

impl<'a> RecipeBuilder<'a> {
    /// Begins a recipe. Windows that are not set are taken over from `parent`, which must have the
    /// same window length.
    ///
    /// Where the sizes differ, nothing is taken over from the window that holds the smaller size
    /// onward: there, windows that are not set are holes.
    pub fn new(shape: Shape, sink: &'a mut dyn NodeSink, parent: Option<Recipe<'a>>) -> Self {
        Self {
            shape,
            sink,
            parent: parent.map(|recipe| Parent::new(recipe, shape)),
            next: 0,
            open: Default::default(),
            root: None,
        }
    }

    /// Sets the chunks that start in a window, with their disk offsets; none make it a hole.
    /// Windows passed over are kept, as by [`RecipeBuilder::keep_until`].
    ///
    /// # Panics
    ///
    /// Unless windows come in ascending order, and chunks ascend, start in the window, and end
    /// within the disk and their region.
    pub fn set_window(&mut self, window: u64, chunks: &[ChunkRef]) -> Result<(), RecipeError> {
        assert!(window < self.shape.windows(), "window {window} is outside");
        self.keep_until(window)?;
        self.close_before(window)?;
        self.next = window + 1;
        if chunks.is_empty() {
            return Ok(());
        }
        let place = NodePlace::of_window(0, window);
        let leaf = Node::Leaf(self.leaf(window, chunks));
        let child = self.emit(place, &leaf)?;
        self.push(place, child);
        Ok(())
    }

    /// Sets all windows of the region that starts at disk offset `start`, from all of its chunks.
    ///
    /// # Panics
    ///
    /// As [`RecipeBuilder::set_window`], and unless `start` is a region's start within the disk.
    pub fn set_region(&mut self, start: u64, chunks: &[ChunkRef]) -> Result<(), RecipeError> {
        assert!(start.is_multiple_of(REGION_LEN), "{start} starts no region");
        let window_len = self.shape.window_len();
        let end = (start + REGION_LEN).min(self.shape.size());
        let mut rest = chunks;
        for window in start / window_len..end.div_ceil(window_len) {
            let window_end = self.shape.window_start(window) + window_len;
            let count = rest.partition_point(|chunk| chunk.offset < window_end);
            let (here, later) = rest.split_at(count);
            self.set_window(window, here)?;
            rest = later;
        }
        assert!(rest.is_empty(), "a chunk lies behind the region");
        Ok(())
    }

    /// Takes over the parent's windows from the first that is not decided up to `window`, by whole
    /// subtrees where possible. Without a parent they are holes.
    ///
    /// # Panics
    ///
    /// If a window from `window` on is decided already.
    pub fn keep_until(&mut self, window: u64) -> Result<(), RecipeError> {
        assert!(self.next <= window, "window {window} is decided already");
        let end = window.min(self.shape.windows());
        while self.next < end {
            let Some(place) = self.largest_keepable(end) else {
                self.next = end;
                break;
            };
            // Before the parent's path moves on: what is closed is compared with the parent's.
            self.close_before(self.next)?;
            let kept = match &mut self.parent {
                Some(parent) => parent.child_at(place)?,
                None => None,
            };
            if let Some(child) = kept {
                self.push(place, child);
            }
            self.next = place.windows().end.min(end);
        }
        Ok(())
    }

    /// Keeps what is left, emits the nodes that are still open and returns the root.
    pub fn finish(mut self) -> Result<RecipeRoot, RecipeError> {
        self.keep_until(self.shape.windows())?;
        self.close_before(u64::MAX)?;
        Ok(match self.root {
            Some(root) => RecipeRoot {
                id: root.id,
                data_bytes: root.data_bytes,
                chunk_count: root.chunk_count,
            },
            None => RecipeRoot {
                id: self.sink.id_of(&EMPTY_LEAF),
                data_bytes: 0,
                chunk_count: 0,
            },
        })
    }

    /// Returns the largest subtree of the parent that begins at the next window and reaches no
    /// further than `end`, or `None` where nothing may be kept.
    fn largest_keepable(&self, end: u64) -> Option<NodePlace> {
        let parent = self.parent.as_ref()?;
        if self.next >= parent.keepable {
            return None;
        }
        // The last subtree of a disk of the same size may reach beyond its end, in both alike.
        let limit = match end == self.shape.windows() {
            true => parent.keepable,
            false => end.min(parent.keepable),
        };
        let height = self.shape.height().min(parent.recipe.shape().height());
        (0..=height)
            .rev()
            .map(|level| NodePlace::of_window(level, self.next))
            .find(|place| {
                let windows = place.windows();
                windows.start == self.next && windows.end <= limit
            })
    }

    fn leaf(&self, window: u64, chunks: &[ChunkRef]) -> Leaf {
        let start = self.shape.window_start(window);
        let window_end = start + self.shape.window_len();
        let region_end = (start / REGION_LEN + 1) * REGION_LEN;
        let limit = self.shape.size().min(region_end);
        let mut decided = start;
        let chunks = chunks.iter().map(|chunk| {
            let end = chunk.end();
            assert!(chunk.offset >= decided, "chunks ascend within their window");
            assert!(chunk.offset < window_end, "chunks start in their window");
            assert!(chunk.len > 0, "chunks have bytes");
            assert!(
                u64::from(chunk.len) <= self.shape.window_len(),
                "chunks are no longer than a window"
            );
            assert!(end <= limit, "chunks end within the disk and their region");
            decided = end;
            LeafChunk {
                offset: u32::try_from(chunk.offset - start).expect("windows are below 4 GiB"),
                len: chunk.len,
                id: chunk.id,
            }
        });
        Leaf {
            chunks: chunks.collect(),
        }
    }

    /// Emits every open node that covers windows before `window` only.
    fn close_before(&mut self, window: u64) -> Result<(), RecipeError> {
        for level in 1..=self.shape.height() {
            let open = &mut self.open[usize::from(level)];
            let place = NodePlace {
                level,
                index: open.index,
            };
            if open.children.is_empty() || place.windows().contains(&window) {
                continue;
            }
            let children = std::mem::take(&mut open.children);
            let child = self.emit(place, &Node::Inner(Inner { level, children }))?;
            self.push(place, child);
        }
        Ok(())
    }

    /// Hands a node to the sink, unless the parent has it at the same place.
    fn emit(&mut self, place: NodePlace, node: &Node) -> Result<Child, RecipeError> {
        let Some(sums) = Sums::of(node) else {
            return Err(self.broken_by_parent(place, "sums fit 64 bits"));
        };
        let Ok(encoded) = node.encode(self.shape.window_len()) else {
            let rule = "a node holds no more than the format lets it";
            return Err(self.broken_by_parent(place, rule));
        };
        let id = self.sink.id_of(&encoded);
        let in_parent = match &mut self.parent {
            Some(parent) => parent.id_at(place)?,
            None => None,
        };
        if in_parent != Some(id) {
            self.sink
                .put(id, encoded)
                .map_err(|source| RecipeError::Unwritable {
                    node: id,
                    place,
                    source,
                })?;
        }
        Ok(Child {
            slot: place.slot(),
            id,
            data_bytes: sums.data_bytes,
            chunk_count: sums.chunk_count,
        })
    }

    /// Says that what was taken over of the parent cannot stand together with what is new: a
    /// hostile recipe may keep every rule, and leave no room for an honest chunk.
    fn broken_by_parent(&mut self, place: NodePlace, rule: &'static str) -> RecipeError {
        let parent = self.parent.as_mut();
        let parent = parent.expect("chunks of a disk keep the rules of the format");
        let node = parent.id_at(place).ok().flatten();
        RecipeError::Inconsistent {
            node: node.unwrap_or(parent.recipe.root()),
            place,
            rule,
        }
    }

    fn push(&mut self, place: NodePlace, child: Child) {
        if place.level == self.shape.height() {
            self.root = Some(child);
            return;
        }
        let above = place.above();
        let open = &mut self.open[usize::from(above.level)];
        assert!(
            open.children.is_empty() || open.index == above.index,
            "the node before is closed"
        );
        open.index = above.index;
        open.children.push(child);
    }
}

/// The parent's recipe, of which one path from the root is held.
struct Parent<'a> {
    recipe: Recipe<'a>,
    /// Windows from this one on may not be kept.
    keepable: u64,
    /// The inner node last read at each level, with its index.
    path: [Option<(u64, Arc<Node>)>; LEVELS],
}

impl<'a> Parent<'a> {
    fn new(recipe: Recipe<'a>, shape: Shape) -> Self {
        let parent = recipe.shape();
        assert!(
            parent.window_len() == shape.window_len(),
            "the parent has other windows"
        );
        let keepable = match parent.size() == shape.size() {
            true => u64::MAX,
            false => parent.size().min(shape.size()) / shape.window_len(),
        };
        Self {
            recipe,
            keepable,
            path: Default::default(),
        }
    }

    /// Returns the id of the parent's node at a place.
    fn id_at(&mut self, place: NodePlace) -> Result<Option<NodeId>, RecipeError> {
        if place == self.recipe.shape().root_place() {
            return Ok(Some(self.recipe.root()));
        }
        Ok(self.child_at(place)?.map(|child| child.id))
    }

    /// Returns the parent's node at a place as the node above lists it; `None` for a hole.
    fn child_at(&mut self, place: NodePlace) -> Result<Option<Child>, RecipeError> {
        let root_place = self.recipe.shape().root_place();
        if self.recipe.is_empty() || place.level > root_place.level {
            return Ok(None);
        }
        if place == root_place {
            let node = self.node_at(place)?.expect("the root is not empty");
            let sums = Sums::of(&node).expect("checked on reading");
            return Ok(Some(Child {
                slot: 0,
                id: self.recipe.root(),
                data_bytes: sums.data_bytes,
                chunk_count: sums.chunk_count,
            }));
        }
        if place.level == root_place.level {
            return Ok(None);
        }
        let slot = place.slot();
        Ok(match self.node_at(place.above())?.as_deref() {
            Some(Node::Inner(inner)) => inner
                .children
                .binary_search_by_key(&slot, |child| child.slot)
                .ok()
                .map(|found| inner.children[found]),
            Some(Node::Leaf(_)) | None => None,
        })
    }

    fn node_at(&mut self, place: NodePlace) -> Result<Option<Arc<Node>>, RecipeError> {
        let level = usize::from(place.level);
        if let Some((index, node)) = &self.path[level]
            && *index == place.index
        {
            return Ok(Some(Arc::clone(node)));
        }
        let node = if place == self.recipe.shape().root_place() {
            self.recipe.root_node()?
        } else if let Some(child) = self.child_at(place)? {
            self.recipe.child_node(place, &child)?
        } else {
            return Ok(None);
        };
        self.path[level] = Some((place.index, Arc::clone(&node)));
        Ok(Some(node))
    }
}
