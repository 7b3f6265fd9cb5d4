mod damage;
mod model;

use std::collections::BTreeSet;
use std::ops::Range;

use model::{MemoryStore, Model, WINDOW};

use super::{NodePlace, NodeVisitor, Recipe, RecipeBuilder, RecipeError, diff, diff_in};
use crate::chunker::ChunkRef;
use crate::id::NodeId;
use crate::limits::REGION_LEN;

/// Prints the seed of a failed history, so that it can be run again.
struct History(u64);

impl Drop for History {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run again with CAIRN_SEED={} CAIRN_HISTORIES=1", self.0);
        }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var_os(name)?.to_str()?.parse().ok()
}

/// Runs random histories, each from a seed of its own.
fn histories(default: u64, run: impl Fn(&mut fastrand::Rng)) {
    let first = from_environment("CAIRN_SEED").unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
    let count = from_environment("CAIRN_HISTORIES").unwrap_or(default);
    for seed in first..first + count {
        let _history = History(seed);
        run(&mut fastrand::Rng::with_seed(seed));
    }
}

#[derive(Default)]
struct Seen {
    nodes: Vec<(NodeId, NodePlace)>,
    chunks: Vec<ChunkRef>,
    faults: Vec<RecipeError>,
}

impl NodeVisitor for Seen {
    fn enter(&mut self, node: NodeId, place: NodePlace) -> bool {
        self.nodes.push((node, place));
        true
    }

    fn leaf(&mut self, _: NodeId, place: NodePlace, chunks: &[ChunkRef]) {
        for chunk in chunks {
            assert!(place.windows().contains(&(chunk.offset / WINDOW)));
        }
        self.chunks.extend(chunks);
    }

    fn fault(&mut self, fault: RecipeError) {
        self.faults.push(fault);
    }
}

#[test]
fn an_incremental_has_the_root_of_a_full_build() {
    histories(400, |rng| {
        let mut store = MemoryStore::default();
        let mut parent = Model::random(rng);
        let mut parent_root = parent.build_full(&mut store);
        for _ in 0..12 {
            let mut disk = parent.clone();
            match rng.u8(0..8) {
                0 => disk = Model::random(rng),
                1 | 2 => disk.resize(rng),
                _ => {}
            }
            for _ in 0..rng.u8(0..4) {
                disk.edit(rng);
            }
            let full = disk.build_full(&mut MemoryStore::default());
            let mut windows = disk.dirty_windows(&parent);
            let changed = windows.len();
            if disk.size > 0 {
                let any = 0..disk.shape().windows();
                windows.extend((0..rng.u8(0..3)).map(|_| rng.u64(any.clone())));
            }
            let recipe = Recipe::new(&store, parent.shape(), parent_root.id);
            let (root, emitted) = disk.build_on(recipe, &windows);
            assert_eq!(root, full);
            let heights = [parent.shape().height(), disk.shape().height()].map(usize::from);
            // Where heights differ, the path from the parent's root to the new one is new as well.
            let new_path = heights[0].abs_diff(heights[1]);
            assert!(emitted.0.len() <= (changed + 2) * (heights[1] + 1) + new_path);
            if parent.size == disk.size {
                assert!(emitted.0.len() <= changed * (heights[1] + 1));
            }
            let reads = store.take_reads() as usize;
            assert!(
                reads <= (windows.len() + 2) * (heights[0] + 1),
                "{reads} nodes read for {} windows",
                windows.len()
            );
            store.nodes.extend(emitted.0);
            (parent, parent_root) = (disk, root);
        }
    });
}

#[test]
fn regions_build_what_windows_build() {
    histories(100, |rng| {
        let mut store = MemoryStore::default();
        let parent = Model::random(rng);
        let parent_root = parent.build_full(&mut store);
        let mut disk = parent.clone();
        disk.edit(rng);
        disk.edit(rng);
        let full = disk.build_full(&mut MemoryStore::default());
        let regions: BTreeSet<u64> = disk
            .dirty_windows(&parent)
            .iter()
            .map(|window| window * WINDOW / REGION_LEN * REGION_LEN)
            .collect();
        let mut emitted = model::Emitted::default();
        let recipe = Recipe::new(&store, parent.shape(), parent_root.id);
        let mut builder = RecipeBuilder::new(disk.shape(), &mut emitted, Some(recipe));
        for start in regions {
            let chunks = disk.starting_in(start..start + REGION_LEN);
            builder
                .set_region(start, &chunks)
                .expect("the parent is sound");
        }
        assert_eq!(builder.finish().expect("the parent is sound"), full);
    });
}

#[test]
fn an_unchanged_disk_emits_nothing_and_reads_the_root_alone() {
    histories(100, |rng| {
        let mut store = MemoryStore::default();
        let disk = Model::random(rng);
        let root = disk.build_full(&mut store);
        let recipe = Recipe::new(&store, disk.shape(), root.id);
        let (again, emitted) = disk.build_on(recipe, &BTreeSet::new());
        assert_eq!(again, root);
        assert!(emitted.0.is_empty());
        assert!(store.take_reads() <= 1);
        // A scan sets every window, and still emits nothing.
        let (again, emitted) = disk.build_on(recipe, &disk.occupied_windows());
        assert_eq!(again, root);
        assert!(emitted.0.is_empty());
    });
}

#[test]
fn walking_gives_the_chunks_of_the_model() {
    histories(300, |rng| {
        let mut store = MemoryStore::default();
        let disk = Model::random(rng);
        let root = disk.build_full(&mut store);
        let recipe = Recipe::new(&store, disk.shape(), root.id);
        let all = disk.all();
        assert_eq!(root.chunk_count, all.len() as u64);
        assert_eq!(
            root.data_bytes,
            all.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>()
        );
        for _ in 0..8 {
            let around = all
                .get(rng.usize(0..=all.len()))
                .map_or(0, |chunk| chunk.offset);
            let start = (around + rng.u64(0..WINDOW)).saturating_sub(rng.u64(0..2 * WINDOW));
            let range = start..(start + rng.u64(0..4 * WINDOW)).min(disk.size);
            let walked: Result<Vec<_>, _> = recipe.chunks_in(range.clone()).collect();
            assert_eq!(
                walked.expect("sound"),
                disk.overlapping(&range),
                "{range:?}"
            );
        }
        store.take_reads();
        let regions: Vec<_> = recipe
            .regions()
            .map(|region| region.expect("sound"))
            .collect();
        let leaves = disk.occupied_windows().len() as u64;
        assert!(store.take_reads() <= leaves * (u64::from(disk.shape().height()) + 1));
        for pair in regions.windows(2) {
            assert!(pair[0].start < pair[1].start);
        }
        for region in &regions {
            let here = disk.starting_in(region.start..region.start + REGION_LEN);
            assert_eq!(region.chunks, here);
            let bytes: u64 = region
                .data_runs()
                .iter()
                .map(|run| run.end - run.start)
                .sum();
            assert_eq!(
                bytes,
                here.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>()
            );
        }
        let in_regions = regions
            .iter()
            .map(|region| region.chunks.len())
            .sum::<usize>();
        assert_eq!(in_regions, all.len());
        let mut seen = Seen::default();
        recipe.visit(&mut seen);
        assert_eq!(seen.chunks, all);
        assert!(seen.faults.is_empty());
    });
}

#[test]
fn differences_are_those_of_the_models() {
    histories(400, |rng| {
        let mut store = MemoryStore::default();
        let old = Model::random(rng);
        let mut new = match rng.u8(0..4) {
            0 => Model::random(rng),
            _ => old.clone(),
        };
        if rng.u8(0..3) == 0 {
            new.resize(rng);
        }
        for _ in 0..rng.u8(0..4) {
            new.edit(rng);
        }
        let roots = [old.build_full(&mut store), new.build_full(&mut store)];
        let recipes = [
            Recipe::new(&store, old.shape(), roots[0].id),
            Recipe::new(&store, new.shape(), roots[1].id),
        ];
        let found = diff(&recipes[0], &recipes[1]).expect("sound");
        let reads = store.take_reads();
        assert_eq!(found, old.diff(&new));
        assert_eq!(diff(&recipes[1], &recipes[0]).expect("sound"), found);
        let size = recipes[0].shape().size().max(recipes[1].shape().size());
        for _ in 0..8 {
            let start = rng.u64(0..=size);
            let range = start..rng.u64(start..=size + 1000);
            let part = diff_in(&recipes[0], &recipes[1], range.clone()).expect("sound");
            let clip = |found: &Range<u64>| found.start.max(range.start)..found.end.min(range.end);
            let expected: Vec<_> = found.iter().map(clip).filter(|r| !r.is_empty()).collect();
            assert_eq!(part, expected, "{range:?}");
        }
        if old.size == new.size {
            let changed = new.dirty_windows(&old).len() as u64;
            assert!(reads <= 2 * changed * (u64::from(new.shape().height()) + 1));
        }
    });
}

/// A disk of 16 TiB in the tests' windows has as many of them as one of 8 PiB in real ones.
#[test]
fn holes_cost_nothing() {
    let mut disk = Model {
        size: WINDOW << 32,
        ..Model::default()
    };
    let mut rng = fastrand::Rng::with_seed(7);
    for offset in [0, disk.size / 2, disk.size - WINDOW] {
        let id = crate::id::ChunkId::from_bytes([rng.u8(..); 32]);
        disk.chunks.insert(offset, ChunkRef { offset, len: 9, id });
    }
    let mut store = MemoryStore::default();
    let root = disk.build_full(&mut store);
    let recipe = Recipe::new(&store, disk.shape(), root.id);
    assert_eq!(recipe.regions().count(), 3);
    assert_eq!(store.take_reads(), 1 + 3 * 4);
}

#[test]
fn what_holds_the_smaller_size_is_never_taken_over() {
    let id = crate::id::ChunkId::from_bytes([1; 32]);
    let chunk = |offset| (offset, ChunkRef { offset, len: 9, id });
    let parent = Model {
        size: 300 * WINDOW + 100,
        chunks: (0..301).map(|window| chunk(window * WINDOW)).collect(),
    };
    let mut store = MemoryStore::default();
    let parent_root = parent.build_full(&mut store);
    for (size, kept) in [
        (300 * WINDOW + 101, 300),
        (300 * WINDOW + 99, 300),
        (70_000 * WINDOW, 300),
        (300 * WINDOW, 300),
        (300 * WINDOW - 1, 299),
        (256 * WINDOW, 256),
        (256 * WINDOW - 1, 255),
        (WINDOW, 1),
        (1, 0),
    ] {
        let mut disk = parent.clone();
        disk.size = size;
        disk.chunks.retain(|offset, _| *offset < kept * WINDOW);
        let recipe = Recipe::new(&store, parent.shape(), parent_root.id);
        let (root, _) = disk.build_on(recipe, &BTreeSet::new());
        assert_eq!(root, disk.build_full(&mut MemoryStore::default()), "{size}");
    }
}
