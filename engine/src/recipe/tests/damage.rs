//! Recipes that no builder makes: each broken rule is reported, with its node, and never walked.

use super::super::{NodeError, NodePlace, Recipe, RecipeBuilder, RecipeError, Shape, diff};
use super::Seen;
use super::model::{Emitted, MemoryStore, Model, WINDOW};
use crate::chunker::ChunkRef;
use crate::format::recipe::{Child, Inner, Leaf, LeafChunk, Node};
use crate::id::{ChunkId, NodeId};
use crate::limits::{LEAF_CHUNKS_MAX, MIB, REGION_LEN};

fn leaf(chunks: &[(u32, u32)]) -> Node {
    let chunks = chunks.iter().map(|&(offset, len)| LeafChunk {
        offset,
        len,
        id: ChunkId::from_bytes([1; 32]),
    });
    Node::Leaf(Leaf {
        chunks: chunks.collect(),
    })
}

fn inner(level: u8, children: &[(u8, NodeId, u64, u64)]) -> Node {
    let children = children
        .iter()
        .map(|&(slot, id, data_bytes, chunk_count)| Child {
            slot,
            id,
            data_bytes,
            chunk_count,
        });
    Node::Inner(Inner {
        level,
        children: children.collect(),
    })
}

/// Requires that every way of reading a recipe reports that the rule is broken.
#[track_caller]
fn assert_refused(store: &MemoryStore, size: u64, root: NodeId, expected: &str) {
    let shape = Shape::new(size, WINDOW).expect("size is supported");
    let recipe = Recipe::new(store, shape, root);
    let walked = recipe
        .chunks_in(0..size)
        .last()
        .expect("there is something");
    let mut seen = Seen::default();
    recipe.visit(&mut seen);
    assert_eq!(seen.faults.len(), 1, "{:?}", seen.faults);
    for error in [walked.err(), seen.faults.pop()] {
        match error {
            Some(RecipeError::Inconsistent { rule, .. }) => assert_eq!(rule, expected),
            other => panic!("{other:?} instead of `{expected}`"),
        }
    }
}

#[test]
fn chunks_beyond_the_disk_or_their_region_are_refused() {
    let mut store = MemoryStore::default();
    let root = store.add(&leaf(&[(0, 10), (10, 91)]));
    assert_refused(&store, 100, root, "a chunk ends within the disk");
    let long = store.add(&leaf(&[(0, 4097)]));
    assert_refused(&store, WINDOW, long, "a chunk is no longer than a window");

    let window = REGION_LEN / WINDOW - 1;
    let last = store.add(&leaf(&[(4000, 97)]));
    let below = store.add(&inner(1, &[(255, last, 97, 1)]));
    let slot = u8::try_from(window / 256).expect("the region has 4096 windows");
    let root = store.add(&inner(2, &[(slot, below, 97, 1)]));
    let size = 4 * REGION_LEN;
    assert_refused(&store, size, root, "a chunk crosses no region border");
}

#[test]
fn levels_slots_and_sums_are_checked() {
    let mut store = MemoryStore::default();
    let bottom = store.add(&leaf(&[(0, 10)]));
    let size = 2 * WINDOW;
    assert_refused(&store, size, bottom, "a leaf stands at level 0");

    let outside = store.add(&inner(1, &[(0, bottom, 10, 1), (2, bottom, 10, 1)]));
    assert_refused(&store, size, outside, "a child begins within the disk");

    let level = "the level is one less than that of the node above";
    let higher = store.add(&inner(2, &[(0, bottom, 10, 1)]));
    assert_refused(&store, size, higher, level);

    let sums = "sums equal what the node above says";
    for (data_bytes, chunk_count) in [(11, 1), (9, 1), (10, 2)] {
        let root = store.add(&inner(1, &[(0, bottom, data_bytes, chunk_count)]));
        assert_refused(&store, size, root, sums);
    }
}

#[test]
fn chunks_of_neighbouring_leaves_may_not_overlap() {
    let mut store = MemoryStore::default();
    let reaching = store.add(&leaf(&[(4000, 200)]));
    let next = store.add(&leaf(&[(103, 10)]));
    let root = store.add(&inner(1, &[(0, reaching, 200, 1), (1, next, 10, 1)]));
    let rule = "chunks of neighbouring leaves do not overlap";
    assert_refused(&store, 2 * WINDOW, root, rule);
}

#[test]
fn the_empty_leaf_stands_nowhere_but_at_the_root() {
    let mut store = MemoryStore::default();
    let empty = super::super::NodeStore::empty_leaf(&store);
    let root = store.add(&inner(1, &[(0, empty, 1, 1)]));
    assert_refused(&store, 2 * WINDOW, root, "an all-hole subtree is left out");
    let shape = Shape::new(1 << 40, WINDOW).expect("size is supported");
    let recipe = Recipe::new(&store, shape, empty);
    assert_eq!(recipe.chunks_in(0..shape.size()).count(), 0);
    assert_eq!(recipe.regions().count(), 0);
}

#[test]
fn a_missing_node_is_named_and_the_rest_is_visited() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut disk = Model {
        size: 600 * WINDOW,
        ..Model::default()
    };
    while disk.occupied_windows().len() < 20 {
        disk.edit(&mut rng);
    }
    let mut store = MemoryStore::default();
    let root = disk.build_full(&mut store);
    let mut seen = Seen::default();
    Recipe::new(&store, disk.shape(), root.id).visit(&mut seen);

    let leaves = seen.nodes.iter().filter(|(_, place)| place.level == 0);
    let (lost, lost_place) = *leaves.clone().nth(9).expect("there are twenty leaves");
    let same = leaves.filter(|(id, _)| *id == lost).count();
    store.nodes.remove(&lost);
    let recipe = Recipe::new(&store, disk.shape(), root.id);
    let mut after = Seen::default();
    recipe.visit(&mut after);
    assert_eq!(after.nodes, seen.nodes);
    assert_eq!(after.faults.len(), same);
    assert!(matches!(
        &after.faults[0],
        RecipeError::Unreadable {
            node,
            place: NodePlace { level: 0, .. },
            source: NodeError::Missing,
        } if *node == lost
    ));
    assert!(after.faults[0].is_damage());

    let mut walk = recipe.chunks_in(disk.shape().bytes(lost_place));
    assert!(walk.by_ref().any(|chunk| chunk.is_err()));
    assert!(walk.next().is_none());

    let other = Model {
        size: disk.size,
        ..Model::default()
    };
    let empty = other.build_full(&mut store);
    let recipes = [root.id, empty.id].map(|id| Recipe::new(&store, disk.shape(), id));
    assert!(diff(&recipes[0], &recipes[1]).is_err());
}

#[test]
fn a_parent_that_leaves_no_room_is_refused() {
    let mut store = MemoryStore::default();
    let below = store.add(&leaf(&[(0, 10)]));
    // As much below each child as the format lets one say, which is too much for a higher tree.
    let children: Vec<_> = (0..=255)
        .map(|slot| (slot, below, WINDOW + MIB, 1))
        .collect();
    let root = store.add(&inner(1, &children));
    let chunk = |offset, len| ChunkRef {
        offset,
        len,
        id: ChunkId::from_bytes([1; 32]),
    };
    let mut emitted = Emitted::default();
    let low = Shape::new(256 * WINDOW, WINDOW).expect("size is supported");
    let high = Shape::new(258 * WINDOW, WINDOW).expect("size is supported");
    let parent = Recipe::new(&store, low, root);
    let mut builder = RecipeBuilder::new(high, &mut emitted, Some(parent));
    let set = builder.set_window(257, &[chunk(257 * WINDOW, 11)]);
    let refused = set.and_then(|()| builder.finish());
    assert!(
        matches!(refused, Err(RecipeError::Inconsistent { node, .. }) if node == root),
        "{refused:?}"
    );

    let wide = 2 * MIB;
    let shape = Shape::new(wide, wide).expect("size is supported");
    let mut builder =
        RecipeBuilder::new(shape, &mut emitted, Some(Recipe::new(&store, shape, root)));
    let full: Vec<ChunkRef> = (0..LEAF_CHUNKS_MAX as u64).map(|at| chunk(at, 1)).collect();
    assert!(builder.set_window(0, &full).is_ok());
    let mut builder =
        RecipeBuilder::new(shape, &mut emitted, Some(Recipe::new(&store, shape, root)));
    let more = [full, vec![chunk(wide - 1, 1)]].concat();
    let refused = builder.set_window(0, &more);
    assert!(
        matches!(refused, Err(RecipeError::Inconsistent { node, .. }) if node == root),
        "{refused:?}"
    );
}
