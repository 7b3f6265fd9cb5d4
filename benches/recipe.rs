//! Recipes in memory: a disk of 1 TiB, one region in sixteen of which holds data, in chunks of 20
//! KiB whose ids `CAIRN_SEED` decides. Rates are of those 64 GiB of data.

mod support;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use cairn_engine::chunker::ChunkRef;
use cairn_engine::format::recipe::{EMPTY_LEAF, Node};
use cairn_engine::id::{ChunkId, NodeId};
use cairn_engine::limits::{REGION_LEN, WINDOW_LEN_MIN};
use cairn_engine::recipe::{
    Cause, NodeError, NodeSink, NodeStore, Recipe, RecipeBuilder, Shape, diff,
};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

const DISK_LEN: u64 = 1 << 40;
const CHUNK_LEN: u32 = 20 * 1024;
const REGIONS: u64 = DISK_LEN / REGION_LEN / 16;
const DATA_LEN: u64 = REGIONS * REGION_LEN;
/// Regions that the second disk has otherwise.
const CHANGED: u64 = 16;

fn main() {
    divan::main();
}

/// Encoded nodes, as a repository's packs would have them.
#[derive(Default)]
struct Nodes(HashMap<NodeId, Vec<u8>>);

fn id_of(encoded: &[u8]) -> NodeId {
    NodeId::from_bytes(*blake3::hash(encoded).as_bytes())
}

impl NodeStore for Nodes {
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        let encoded = self.0.get(&id).ok_or(NodeError::Missing)?;
        let node = Node::decode(encoded, WINDOW_LEN_MIN);
        Ok(Arc::new(node.expect("the builder made it")))
    }

    fn empty_leaf(&self) -> NodeId {
        id_of(&EMPTY_LEAF)
    }
}

impl NodeSink for Nodes {
    fn id_of(&self, encoded: &[u8]) -> NodeId {
        id_of(encoded)
    }

    fn put(&mut self, id: NodeId, encoded: Vec<u8>) -> Result<(), Cause> {
        self.0.insert(id, encoded);
        Ok(())
    }
}

fn shape() -> Shape {
    Shape::new(DISK_LEN, WINDOW_LEN_MIN).expect("the disk is not too large")
}

/// The chunks of one region.
fn region(start: u64, seed: u64) -> Vec<ChunkRef> {
    let mut random = fastrand::Rng::with_seed(seed ^ start);
    let offsets = (start..start + REGION_LEN).step_by(CHUNK_LEN as usize);
    let chunk = |offset: u64| {
        let mut id = [0; 32];
        random.fill(&mut id);
        let left = u32::try_from(start + REGION_LEN - offset).expect("at most a region");
        ChunkRef {
            offset,
            len: left.min(CHUNK_LEN),
            id: ChunkId::from_bytes(id),
        }
    };
    offsets.map(chunk).collect()
}

/// Every `step`-th of the regions with data.
fn regions(step: u64, seed: u64) -> Vec<(u64, Vec<ChunkRef>)> {
    let starts = (0..REGIONS).step_by(usize::try_from(step).expect("small"));
    let starts = starts.map(|number| number * 16 * REGION_LEN);
    starts.map(|start| (start, region(start, seed))).collect()
}

fn build_from(
    regions: &[(u64, Vec<ChunkRef>)],
    nodes: &mut Nodes,
    parent: Option<Recipe<'_>>,
) -> NodeId {
    let mut builder = RecipeBuilder::new(shape(), nodes, parent);
    for (start, chunks) in regions {
        builder.set_region(*start, chunks).expect("memory is sound");
    }
    builder.finish().expect("memory is sound").id
}

fn parent() -> &'static (Nodes, NodeId) {
    static PARENT: OnceLock<(Nodes, NodeId)> = OnceLock::new();
    PARENT.get_or_init(|| {
        let mut nodes = Nodes::default();
        let root = build_from(&regions(1, support::seed()), &mut nodes, None);
        (nodes, root)
    })
}

#[divan::bench(sample_count = 5)]
fn build(bencher: Bencher<'_, '_>) {
    let regions = regions(1, support::seed());
    bencher
        .counter(BytesCount::new(DATA_LEN))
        .bench_local(|| build_from(&regions, &mut Nodes::default(), None));
}

/// Sixteen regions are other than the parent's.
#[divan::bench(sample_count = 20)]
fn build_on_parent(bencher: Bencher<'_, '_>) {
    let (nodes, root) = parent();
    let regions = regions(REGIONS / CHANGED, support::seed() + 1);
    bencher.counter(BytesCount::new(DATA_LEN)).bench_local(|| {
        let parent = Recipe::new(nodes, shape(), *root);
        build_from(&regions, &mut Nodes::default(), Some(parent))
    });
}

#[divan::bench(sample_count = 5)]
fn walk(bencher: Bencher<'_, '_>) {
    let (nodes, root) = parent();
    bencher.counter(BytesCount::new(DATA_LEN)).bench_local(|| {
        let recipe = Recipe::new(nodes, shape(), *root);
        recipe.regions().for_each(|region| {
            black_box(region.expect("memory is sound"));
        });
    });
}

/// Sixteen regions differ.
#[divan::bench(sample_count = 20)]
fn compare(bencher: Bencher<'_, '_>) {
    let (nodes, root) = parent();
    let mut both = Nodes(nodes.0.clone());
    let changed = regions(REGIONS / CHANGED, support::seed() + 1);
    let parent = Recipe::new(nodes, shape(), *root);
    let other = build_from(&changed, &mut both, Some(parent));
    bencher.counter(BytesCount::new(DATA_LEN)).bench_local(|| {
        let [old, new] = [*root, other].map(|root| Recipe::new(&both, shape(), root));
        diff(&old, &new).expect("memory is sound")
    });
}
