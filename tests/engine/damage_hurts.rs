//! Whom damage hurts: what verify names is what a look at every chunk and node finds lost.

use std::fs;
use std::ops::Range;
use std::sync::Arc;

use cairn_engine::chunker::ChunkRef;
use cairn_engine::format::pack::PackKind;
use cairn_engine::id::{NodeId, SnapshotId};
use cairn_engine::recipe::{NodePlace, NodeStore, NodeVisitor, Recipe, RecipeError, Shape};
use cairn_engine::repository::{Access, Contents, Fetcher, Repository, RepositoryError};
use cairn_engine::storage::{Area, Name};
use cairn_engine::verify::VerifyReport;

use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::{chain, small_settings};
use crate::support::{MemorySource, TestRepository, edit, random_disk, seed};

/// The longest chunk under `small_settings`.
const CHUNK_LEN_MAX: u64 = 4 * 4096;

/// What a snapshot's disk stands on, written down while all was well.
#[derive(Default)]
struct Tree {
    snapshot: Option<SnapshotId>,
    size: u64,
    nodes: Vec<(NodeId, Range<u64>)>,
    /// Each with its number among the leaves' nodes.
    chunks: Vec<(ChunkRef, usize)>,
}

struct Recorder<'t> {
    shape: Shape,
    tree: &'t mut Tree,
    /// Numbers of the nodes that are open, by level from the leaf.
    places: Vec<(NodePlace, usize)>,
}

impl NodeVisitor for Recorder<'_> {
    fn enter(&mut self, node: NodeId, place: NodePlace) -> bool {
        self.places.push((place, self.tree.nodes.len()));
        self.tree.nodes.push((node, self.shape.bytes(place)));
        true
    }

    fn leaf(&mut self, _: NodeId, place: NodePlace, chunks: &[ChunkRef]) {
        let found = self.places.iter().rev().find(|(at, _)| *at == place);
        let (_, node) = found.expect("a leaf is entered first");
        self.tree
            .chunks
            .extend(chunks.iter().map(|chunk| (*chunk, *node)));
    }

    fn fault(&mut self, fault: RecipeError) {
        panic!("all is well yet: {fault}");
    }
}

fn record(repository: &Arc<Repository>) -> Vec<Tree> {
    let contents = Contents::open(repository, Access::Read(Vec::new()), "test").expect("opens");
    let list = repository.snapshots().expect("snapshots are listed");
    let trees = list.snapshots.iter().map(|snapshot| {
        let disk = snapshot.disk("vda").expect("the disk was backed up");
        let shape = Shape::new(disk.size, repository.chunker().window_len()).expect("it was made");
        let mut tree = Tree {
            snapshot: Some(snapshot.id),
            size: disk.size,
            ..Tree::default()
        };
        let mut recorder = Recorder {
            shape,
            tree: &mut tree,
            places: Vec::new(),
        };
        Recipe::new(&contents, shape, disk.recipe).visit(&mut recorder);
        tree
    });
    trees.collect()
}

/// Returns ranges in order, joined where they touch.
fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// Returns what of the ranges `from`, a union, is not in `without`, a union.
fn difference(from: &[Range<u64>], without: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for range in from {
        let mut start = range.start;
        for hole in without
            .iter()
            .filter(|it| it.end > range.start && it.start < range.end)
        {
            if hole.start > start {
                left.push(start..hole.start);
            }
            start = start.max(hole.end);
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}

/// Returns the bytes that must be named, and those that may be.
fn lost(contents: &Contents, tree: &Tree) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let gone = tree
        .nodes
        .iter()
        .filter(|(id, _)| contents.node(*id).is_err());
    let gone: Vec<Range<u64>> = gone.map(|(_, range)| range.clone()).collect();
    let mut must = Vec::new();
    let mut fetcher = Fetcher::default();
    for (chunk, node) in &tree.chunks {
        let (_, leaf) = &tree.nodes[*node];
        let under_gone = gone
            .iter()
            .any(|it| it.start <= leaf.start && leaf.end <= it.end);
        let fetched = contents.fetch(&[*chunk], &mut fetcher, &mut |_, _| {
            Ok::<(), RepositoryError>(())
        });
        if under_gone || fetched.is_err() {
            must.push(chunk.offset..chunk.end());
        }
    }
    // What a lost leaf's last chunk held beyond its window cannot be told from a hole behind it.
    let data = union(
        tree.chunks
            .iter()
            .map(|(chunk, _)| chunk.offset..chunk.end())
            .collect(),
    );
    let tails = gone
        .iter()
        .map(|range| range.end..(range.end + CHUNK_LEN_MAX).min(tree.size));
    let tails = difference(&union(tails.collect()), &data);
    let may = must.iter().cloned().chain(gone).chain(tails).collect();
    (union(must), union(may))
}

fn named(report: &VerifyReport, snapshot: SnapshotId) -> Vec<Range<u64>> {
    let hurts = report.faults.iter().flat_map(|fault| &fault.hurts);
    let hurts = hurts.filter(|hurt| hurt.snapshot == snapshot);
    union(hurts.map(|hurt| hurt.range.clone()).collect())
}

fn check(repository: &TestRepository, trees: &[Tree], context: &str) -> usize {
    let repository = repository.open();
    let report = verify_fresh(&repository);
    let report = report.unwrap_or_else(|error| panic!("{context}: {}", chain(&error)));
    let list = repository.snapshots().expect("snapshots are listed");
    let mut hurt = 0;
    for tree in trees {
        let id = tree.snapshot.expect("it was recorded");
        let contents = Contents::open(&repository, Access::Read(vec![id]), "test").expect("opens");
        let (must, may) = lost(&contents, tree);
        let named = named(&report, id);
        let missed = difference(&must, &named);
        assert!(missed.is_empty(), "{context}: {id} lacks {missed:?}");
        let excess = difference(&named, &may);
        assert!(excess.is_empty(), "{context}: {id} names {excess:?} too");
        let snapshot = list.snapshots.iter().find(|listed| listed.id == id);
        let restored = restore_fresh(&repository, snapshot.expect("it is listed"));
        assert_eq!(restored.is_err(), !must.is_empty(), "{context}: {id}");
        hurt += usize::from(!must.is_empty());
    }
    hurt
}

fn hurts(passphrase: Option<&'static str>) {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let repository = TestRepository::with(passphrase, |settings| {
        *settings = small_settings();
        // Nodes spread over many packs.
        settings.pack_len = 4096;
    });
    // Three windows, with chunks that reach from one into the next.
    let mut bytes = random_disk(&mut random, 5_500_000);
    for border in [2 << 20, 4 << 20] {
        bytes[border - 150_000..border + 150_000].fill_with(|| random.u8(b'a'..b'k'));
    }
    for _ in 0..2 {
        repository
            .backup(MemorySource::new(bytes.clone()), None)
            .expect("backs up");
        edit(&mut random, &mut bytes);
        bytes[3_000_000..3_300_000].fill_with(|| random.u8(b'a'..b'k'));
    }
    let opened = repository.open();
    let trees = record(&opened);
    let mut packs = opened
        .storage()
        .list(Area::Packs)
        .expect("packs are listed");
    random.shuffle(&mut packs);
    // Packs of nodes are few and hurt most.
    let contents = Contents::open(&opened, Access::Read(Vec::new()), "test").expect("opens");
    packs.sort_by_key(|listed| match listed.name {
        Name::Pack(id) => contents.footer(id).expect("whole").header().kind != PackKind::Nodes,
        _ => true,
    });
    drop(contents);
    let mut hurt = 0;
    for listed in packs.iter().take(14) {
        let path = repository.path().join(listed.name.path());
        let whole = fs::read(&path).expect("the pack is there");
        let at = random.usize(..whole.len());
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << random.u8(..8);
        fs::write(&path, &flipped).expect("writable");
        hurt += check(
            &repository,
            &trees,
            &format!("seed {seed}, {} byte {at}", listed.name),
        );
        fs::remove_file(&path).expect("removable");
        hurt += check(
            &repository,
            &trees,
            &format!("seed {seed}, {} is gone", listed.name),
        );
        fs::write(&path, &whole).expect("writable");
    }
    assert!(hurt > 10, "too little was hurt to show anything: {hurt}");
    assert_eq!(check(&repository, &trees, "all is back"), 0);
}

#[test]
fn verify_names_exactly_the_bytes_that_are_lost() {
    hurts(None);
}

#[test]
fn verify_names_exactly_the_bytes_that_are_lost_of_an_encrypted_repository() {
    hurts(Some("correct horse"));
}
