//! Whom the stored bytes belong to, against a model that counts entry by entry, and against a
//! repository that never had what was dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cairn_engine::chunker::ChunkRef;
use cairn_engine::format::note::Fact;
use cairn_engine::format::pack::PackKind;
use cairn_engine::id::{ContentId, NodeId, SnapshotId};
use cairn_engine::progress::Cancel;
use cairn_engine::recipe::{NodePlace, NodeVisitor, Recipe, RecipeError, Shape};
use cairn_engine::repository::{Access, Contents, Repository, Snapshot};
use cairn_engine::stats::{self, Owned, Usage, UsageOptions};
use cairn_engine::storage::{Area, Name};

use crate::support::packs::MemoryRepository;
use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, edit, random_disk, seed};

fn usage(contents: &Contents, owned: &[Owned<'_>], owners: u32) -> Usage {
    let options = UsageOptions {
        threads: 2,
        cancel: &Cancel::default(),
    };
    stats::usage(contents, owned, owners, &options).expect("all can be read")
}

fn owned<'s>(
    snapshots: &'s [Snapshot],
    owner: impl Fn(usize) -> Option<u32> + 's,
) -> Vec<Owned<'s>> {
    let numbered = snapshots.iter().enumerate();
    let owned = numbered.map(|(number, snapshot)| Owned {
        snapshot,
        owner: owner(number),
    });
    owned.collect()
}

fn open(repository: &Arc<Repository>) -> Contents {
    Contents::open(repository, Access::Read(Vec::new()), "test").expect("opens")
}

fn snapshots(repository: &Arc<Repository>) -> Vec<Snapshot> {
    let list = repository.snapshots().expect("snapshots are listed");
    list.snapshots
}

/// A line of disks, each the one before with some edits; now and then one comes back.
fn disks(random: &mut fastrand::Rng, count: usize, len: usize) -> Vec<Vec<u8>> {
    let mut disks = vec![random_disk(random, len)];
    while disks.len() < count {
        let before = match random.u8(0..6) {
            0 => random.usize(0..disks.len()),
            _ => disks.len() - 1,
        };
        let mut disk = disks[before].clone();
        if random.u8(0..6) > 0 {
            edit(random, &mut disk);
        }
        disks.push(disk);
    }
    disks
}

fn back_up(folder: &TestRepository, disks: &[&[u8]]) -> Vec<SnapshotId> {
    let back_up = |disk: &&[u8]| {
        let done = folder.backup(MemorySource::new(disk.to_vec()), None);
        done.expect("backs up").snapshot
    };
    disks.iter().map(back_up).collect()
}

fn borrowed(disks: &[Vec<u8>]) -> Vec<&[u8]> {
    disks.iter().map(Vec::as_slice).collect()
}

/// Everything that a recipe consists of.
#[derive(Default)]
struct All(BTreeSet<ContentId>);

impl NodeVisitor for All {
    fn enter(&mut self, node: NodeId, _: NodePlace) -> bool {
        self.0.insert(node.into());
        true
    }

    fn leaf(&mut self, _: NodeId, _: NodePlace, chunks: &[ChunkRef]) {
        self.0
            .extend(chunks.iter().map(|chunk| ContentId::from(chunk.id)));
    }

    fn fault(&mut self, fault: RecipeError) {
        panic!("{fault}");
    }
}

/// Returns what each entry of all packs takes, as a fraction of its frame; an entry of two packs
/// comes twice.
fn costs(contents: &Contents) -> Vec<(ContentId, f64)> {
    let mut costs = Vec::new();
    for pack in contents.packs().iter() {
        let reader = contents.footer(*pack).expect("it is whole");
        let footer = reader.footer();
        let frames: u64 = footer
            .frames
            .iter()
            .map(|frame| u64::from(frame.stored_len))
            .sum();
        let around = (reader.stored_len() - frames) as f64 / footer.entries.len() as f64;
        for frame in &footer.frames {
            let ratio = f64::from(frame.stored_len) / f64::from(frame.plain_len);
            let entries = footer.frame_entries(frame).iter();
            costs.extend(entries.map(|entry| (entry.id, around + ratio * f64::from(entry.len))));
        }
    }
    costs
}

/// Whose a snapshot is, by its number.
type OwnerOf = fn(usize) -> Option<u32>;

/// Returns everything that a snapshot's disk consists of.
fn needs(contents: &Contents, snapshot: &Snapshot) -> BTreeSet<ContentId> {
    let mut all = All::default();
    let disk = snapshot.disk("vda").expect("it was backed up");
    let window_len = contents.repository().chunker().window_len();
    let shape = Shape::new(disk.size, window_len).expect("it was made");
    Recipe::new(contents, shape, disk.recipe).visit(&mut all);
    all.0
}

#[test]
fn bytes_are_those_of_a_model() {
    let mut random = fastrand::Rng::with_seed(seed());
    for passphrase in [None, Some("correct horse")] {
        let folder = TestRepository::with(passphrase, |settings| *settings = small_settings());
        let disks = disks(&mut random, 12, 600_000);
        back_up(&folder, &borrowed(&disks));
        let repository = folder.open();
        let snapshots = snapshots(&repository);
        let contents = open(&repository);
        let holds: Vec<_> = snapshots.iter().map(|of| needs(&contents, of)).collect();
        // Each snapshot for itself, by threes, all in one hand; and with some that only rest.
        let owners: [(u32, OwnerOf); 4] = [
            (12, |number| u32::try_from(number).ok()),
            (4, |number| u32::try_from(number / 3).ok()),
            (1, |_| Some(0)),
            (12, |number| {
                u32::try_from(number).ok().filter(|number| number % 4 > 0)
            }),
        ];
        for (count, owner) in owners {
            let found = usage(&contents, &owned(&snapshots, owner), count);
            assert!(!found.is_partial());
            let mut used = vec![0.0; count as usize];
            let mut unique = vec![0.0; count as usize];
            let (mut resting, mut unused) = (0.0, 0.0);
            let mut seen = BTreeSet::new();
            for (id, cost) in costs(&contents) {
                assert!(seen.insert(id), "one process stores nothing twice");
                let holders = (0..snapshots.len()).filter(|number| holds[*number].contains(&id));
                let holders: Vec<_> = holders.map(owner).collect();
                let living: BTreeSet<u32> = holders.iter().copied().flatten().collect();
                match (holders.is_empty(), living.len()) {
                    (true, _) => unused += cost,
                    (false, 0) => resting += cost,
                    (false, 1) => unique[*living.first().expect("one") as usize] += cost,
                    (false, _) => {}
                }
                living
                    .iter()
                    .for_each(|owner| used[*owner as usize] += cost);
            }
            // Whole bytes against fractions: two for each entry at most.
            let slack = 2.0 * seen.len() as f64;
            let close = |found: u64, wanted: f64| (found as f64 - wanted).abs() <= slack;
            for (number, space) in found.owners.iter().enumerate() {
                let wanted = (used[number], unique[number]);
                assert!(close(space.used_bytes, wanted.0), "{space:?} {wanted:?}");
                assert!(close(space.unique_bytes, wanted.1), "{space:?} {wanted:?}");
                assert_eq!(space.shared_bytes() + space.unique_bytes, space.used_bytes);
            }
            assert!(close(found.resting_bytes, resting), "{found:?} {resting}");
            assert!(
                close(found.unreferenced_bytes, unused),
                "{found:?} {unused}"
            );
        }
        // In one hand all is used, to the byte.
        let all = usage(&contents, &owned(&snapshots, |_| Some(0)), 1);
        let packs = repository
            .storage()
            .list(Area::Packs)
            .expect("packs are listed");
        let stored: u64 = packs.iter().map(|listed| listed.len).sum();
        assert_eq!(all.owners[0].unique_bytes + all.unreferenced_bytes, stored);
    }
}

/// What is said to be freed is what a repository takes less that never had the snapshots.
#[test]
fn freed_bytes_are_those_of_a_repository_without_them() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut disks = disks(&mut random, 16, 6_000_000);
    for disk in &mut disks {
        // A log that is written anew each day, and one that only grows less alike.
        disk[1_000_000..1_800_000].fill_with(|| random.u8(b'a'..=b'p'));
        let words = disk[3_000_000..5_000_000].iter_mut().step_by(9001);
        words.for_each(|byte| *byte = random.u8(b'a'..=b'p'));
    }
    let is_kept = |number: usize| number % 2 == 1;
    let stored = |folder: &TestRepository| -> u64 {
        let repository = folder.open();
        let storage = repository.storage();
        let areas = [Area::Packs, Area::Snapshots, Area::Notes].into_iter();
        let listed = areas.flat_map(|area| storage.list(area).expect("it is listed"));
        listed.map(|listed| listed.len).sum()
    };
    let folder = TestRepository::new();
    let ids = back_up(&folder, &borrowed(&disks));
    let repository = folder.open();
    let noted = repository.add_note(
        ids[0],
        Fact::Proved {
            what: "read".to_owned(),
        },
    );
    noted.expect("a note is added");
    let kept: Vec<&[u8]> = (0..disks.len())
        .filter(|number| is_kept(*number))
        .map(|number| &*disks[number])
        .collect();
    let without = TestRepository::new();
    back_up(&without, &kept);

    let snapshots = snapshots(&repository);
    let position: HashMap<SnapshotId, usize> = ids
        .iter()
        .enumerate()
        .map(|(number, id)| (*id, number))
        .collect();
    let owner = |number: usize| Some(u32::from(!is_kept(position[&snapshots[number].id])));
    let found = usage(&open(&repository), &owned(&snapshots, owner), 2);
    let (with, without) = (stored(&folder), stored(&without));
    let (freed, wanted) = (found.owners[1].freed_bytes as f64, (with - without) as f64);
    assert!(wanted > 2_000_000.0, "there is something to free: {wanted}");
    // In other company chunks compress a little better or worse.
    let slack = wanted * 0.03;
    assert!((freed - wanted).abs() < slack, "{freed} {wanted} of {with}");
}

#[test]
fn more_snapshots_of_the_same_need_no_more_reads() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let disk = random_disk(&mut random, 2_000_000);
    back_up(&folder, &[&disk[..]; 10]);
    let world = MemoryRepository::load(folder);
    let snapshots = snapshots(&world.repository);
    let nodes = world.packs(PackKind::Nodes);
    let reads = |count: usize| {
        let contents = world.contents();
        world.objects.take_reads();
        let owned = owned(&snapshots[..count], |number| u32::try_from(number).ok());
        let found = usage(&contents, &owned, 10);
        let reads = world.objects.take_reads().into_iter();
        let of_nodes =
            reads.filter(|(name, _)| matches!(name, Name::Pack(pack) if nodes.contains_key(pack)));
        (of_nodes.count(), found)
    };
    let (of_one, _) = reads(1);
    let (of_all, found) = reads(10);
    assert_eq!(of_one, of_all);
    let used: BTreeSet<u64> = found.owners.iter().map(|space| space.used_bytes).collect();
    assert_eq!(used.len(), 1, "{found:?}");
    assert!(found.owners.iter().all(|space| space.unique_bytes == 0));
}

#[test]
fn damage_is_counted_around() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let first = random_disk(&mut random, 700_000);
    let second = random_disk(&mut random, 700_000);
    let ids = back_up(&folder, &[&first, &second]);
    let world = MemoryRepository::load(folder);
    let snapshots = snapshots(&world.repository);
    let owner = |number: usize| Some(u32::from(snapshots[number].id == ids[1]));
    let count = || usage(&world.contents(), &owned(&snapshots, owner), 2);
    let whole = count();
    assert!(!whole.is_partial());
    let packs: BTreeMap<_, _> = world.packs(PackKind::Nodes);
    let root: ContentId = world
        .snapshot(ids[1])
        .disk("vda")
        .expect("it is there")
        .recipe
        .into();
    let pack = packs.iter().find(|(_, held)| held.contains(&root));
    let (pack, _) = pack.expect("some pack has the root");
    world.objects.flip(&Name::Pack(*pack), 60, 1);
    let found = count();
    assert!(found.is_partial() && found.lost_nodes > 0, "{found:?}");
    assert_eq!(found.owners[0], whole.owners[0]);
    assert!(found.owners[1].used_bytes < whole.owners[1].used_bytes);
    assert!(found.unreferenced_bytes > whole.unreferenced_bytes);
}

#[test]
fn whoever_asks_can_stop_it() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let disk = random_disk(&mut random, 300_000);
    back_up(&folder, &[&disk]);
    let world = MemoryRepository::load(folder);
    let snapshots = snapshots(&world.repository);
    let cancel = Cancel::default();
    cancel.cancel();
    let options = UsageOptions {
        threads: 1,
        cancel: &cancel,
    };
    let owned = owned(&snapshots, |_| Some(0));
    let stopped = stats::usage(&world.contents(), &owned, 1, &options);
    assert!(
        matches!(stopped, Err(stats::StatsError::Cancelled)),
        "{stopped:?}"
    );
}
