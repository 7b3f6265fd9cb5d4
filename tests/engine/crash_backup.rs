//! Power cuts at every step of making a repository and two snapshots: what was acknowledged stays,
//! nothing is half there, and life goes on.

use std::path::Path;

use cairn_engine::id::SnapshotId;
use cairn_engine::progress::Cancel;
use cairn_engine::repository::{RepositoryError, Snapshot};
use cairn_engine::storage::sim::{Fault, FaultKind, FaultOn, Lie, SimFs};
use cairn_engine::storage::{FileSystem, Folder};
use tempfile::TempDir;

use crate::support::sim::{chain, copy_tree, faults, init_on, init_with_parity, open_on, scratch};
use crate::support::{MemorySource, backup, edit, random_disk, seed};

const DISK_LEN: usize = 700_000;

/// A backup that came to its end.
struct Made {
    /// How many changes the disk had seen by then.
    after: usize,
    id: SnapshotId,
    bytes: Vec<u8>,
}

/// What happened on a disk until the power cuts come.
struct Story {
    seed: u64,
    disk: SimFs,
    /// How many changes the disk had seen when `init` returned.
    ready: usize,
    made: Vec<Made>,
    /// Copies of the index: after the first snapshot, and after the last.
    indexes: [TempDir; 2],
}

impl Story {
    /// Makes a repository, a full snapshot and an incremental one.
    fn tell(seed: u64, lie: Option<Lie>, parity: Option<u8>) -> Result<Self, RepositoryError> {
        let disk = SimFs::new(seed);
        disk.pretend(lie);
        let cache = scratch();
        let mut random = fastrand::Rng::with_seed(seed);
        let repository = init_with_parity(&disk, cache.path(), parity)?;
        let ready = disk.op_count();
        let mut bytes = random_disk(&mut random, DISK_LEN);
        let before = bytes.clone();
        let mut made: Vec<Made> = Vec::new();
        let indexes = [scratch(), scratch()];
        for index in &indexes {
            let source = match made.is_empty() {
                true => MemorySource::new(bytes.clone()),
                false => {
                    edit(&mut random, &mut bytes);
                    MemorySource::changed_since(&before, bytes.clone(), false)
                }
            };
            let parent = made.last().map(|made| made.id);
            let done = backup(&repository, source, parent, &Cancel::default());
            let id = done
                .unwrap_or_else(|error| panic!("{}", chain(&error)))
                .snapshot;
            made.push(Made {
                after: disk.op_count(),
                id,
                bytes: bytes.clone(),
            });
            copy_tree(cache.path(), index.path());
        }
        Ok(Self {
            seed,
            disk,
            ready,
            made,
            indexes,
        })
    }

    fn bytes_of(&self, snapshot: &Snapshot) -> Option<Vec<u8>> {
        let made = self.made.iter().find(|made| made.id == snapshot.id);
        made.map(|made| made.bytes.clone())
    }

    /// Returns what is wrong after a power cut that comes after the first `after` changes.
    fn violations(&self, after: usize, cut: u64) -> Vec<String> {
        let disk = self.disk.crash_image(after, cut);
        let cache = scratch();
        if let Some(index) = self.indexes.get((after + cut as usize) % 3) {
            copy_tree(index.path(), cache.path());
        }
        let repository = match open_on(&disk, cache.path()) {
            Err(RepositoryError::NoRepository { .. }) if after < self.ready => {
                init_on(&disk, cache.path())
            }
            opened => opened,
        };
        let repository = match repository {
            Ok(repository) => repository,
            Err(error) => return vec![format!("does not open: {}", chain(&error))],
        };
        let mut wrong = faults(&repository, |snapshot| self.bytes_of(snapshot));
        let list = repository.snapshots().unwrap_or_default();
        let lost = self.made.iter().filter(|made| {
            made.after <= after && list.snapshots.iter().all(|listed| listed.id != made.id)
        });
        wrong.extend(lost.map(|made| format!("snapshot {} is lost", made.id)));
        if wrong.is_empty() && (after + cut as usize).is_multiple_of(2) {
            wrong.extend(self.goes_on(&disk, cache.path(), cut));
        }
        wrong
    }

    /// Makes one more snapshot, and returns what is wrong with the repository then.
    fn goes_on(&self, disk: &SimFs, cache: &Path, cut: u64) -> Vec<String> {
        let repository = open_on(disk, cache).expect("it was open before");
        let list = repository.snapshots().expect("it was listed before");
        let mut random = fastrand::Rng::with_seed(self.seed ^ cut);
        let parent = list.snapshots.last().map(|last| {
            let bytes = self.bytes_of(last).expect("all snapshots were compared");
            (last.id, bytes)
        });
        let (bytes, source) = match &parent {
            None => {
                let bytes = self.made[0].bytes.clone();
                (bytes.clone(), MemorySource::new(bytes))
            }
            Some((_, before)) => {
                let mut bytes = before.clone();
                edit(&mut random, &mut bytes);
                (
                    bytes.clone(),
                    MemorySource::changed_since(before, bytes, false),
                )
            }
        };
        let parent = parent.map(|(id, _)| id);
        let done = match backup(&repository, source, parent, &Cancel::default()) {
            Ok(done) => done,
            Err(error) => return vec![format!("the next backup fails: {}", chain(&error))],
        };
        drop(repository);
        let disk = disk.crash_image(disk.op_count(), cut);
        let repository = match open_on(&disk, cache) {
            Ok(repository) => repository,
            Err(error) => return vec![format!("does not open again: {}", chain(&error))],
        };
        faults(&repository, |snapshot| match snapshot.id == done.snapshot {
            true => Some(bytes.clone()),
            false => self.bytes_of(snapshot),
        })
    }
}

#[test]
fn a_power_cut_at_any_step_costs_nothing_that_was_acknowledged() {
    cut_everywhere(None);
}

#[test]
fn a_power_cut_at_any_step_of_a_backup_with_parity_costs_nothing() {
    cut_everywhere(Some(10));
}

fn cut_everywhere(parity: Option<u8>) {
    let seed = seed();
    let story = Story::tell(seed, None, parity).expect("the story can be told");
    for after in 0..=story.disk.op_count() {
        // Different kinds of cut at neighbouring steps, and all kinds where snapshots are made.
        let is_commit = story
            .made
            .iter()
            .any(|made| after + 12 > made.after && after <= made.after);
        let first = (after as u64).wrapping_mul(5);
        for cut in first..first + if is_commit { 12 } else { 4 } {
            let wrong = story.violations(after, cut);
            assert!(
                wrong.is_empty(),
                "seed {seed}, after {after}, cut {cut}: {wrong:#?}\n{:#?}",
                &story.disk.log()[after.saturating_sub(8)..after]
            );
        }
    }
}

#[test]
fn a_disk_that_lies_about_fsync_is_found_out() {
    let seed = seed();
    for lie in [Lie::FileSyncs, Lie::FolderSyncs, Lie::LateFileSyncs] {
        let story = Story::tell(seed, Some(lie), None).expect("the story can be told");
        let ends = story.ready..=story.disk.op_count();
        let mut cuts = ends
            .rev()
            .flat_map(|after| (0..4).map(move |cut| (after, cut)));
        let found = cuts.find(|(after, cut)| !story.violations(*after, *cut).is_empty());
        assert!(found.is_some(), "seed {seed}: {lie:?} goes unnoticed");
    }
}

#[test]
fn whoever_dies_at_any_step_leaves_the_next_a_whole_repository() {
    let seed = seed();
    let story = Story::tell(seed, None, None).expect("the story can be told");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = story.made[1].bytes.clone();
    edit(&mut random, &mut bytes);
    bytes[100_000..400_000].fill_with(|| random.u8(b'a'..b'k'));
    let mut deaths = 0;
    for at in (0..).step_by(2) {
        let victim = story.disk.crash_image(story.disk.op_count(), at);
        let heir = victim.spawn();
        let cache = scratch();
        copy_tree(story.indexes[1].path(), cache.path());
        let at = usize::try_from(at).expect("a small number");
        victim.inject(Fault {
            on: FaultOn::Changes,
            at,
            lasting: false,
            kind: FaultKind::Death,
        });
        let source = || MemorySource::new(bytes.clone());
        let died = open_on(&victim, cache.path())
            .map(|repository| backup(&repository, source(), None, &Cancel::default()));
        let survived = victim.op_count() < at;
        victim.heal();
        let context = format!("seed {seed}, death at {at}");

        let repository = open_on(&heir, cache.path()).expect("the heir opens it");
        let done = backup(&repository, source(), None, &Cancel::default());
        let done = done.unwrap_or_else(|error| panic!("{context}: {}", chain(&error)));
        drop(repository);
        for folder in ["tmp", "locks"] {
            assert_eq!(
                heir.list(folder).expect("it can be listed"),
                [],
                "{context}: {folder}"
            );
        }
        // What the heir built on must not go with the power, whoever had written it.
        for cut in 0..3 {
            let after = heir.crash_image(heir.op_count(), cut);
            drop(Folder::open(after.clone()).expect("the folder opens"));
            let repository = open_on(&after, cache.path()).expect("it opens after the power cut");
            let list = repository.snapshots().expect("snapshots are listed");
            assert!(
                list.snapshots
                    .iter()
                    .any(|listed| listed.id == done.snapshot),
                "{context}"
            );
            let wrong = faults(&repository, |snapshot| {
                story.bytes_of(snapshot).or_else(|| Some(bytes.clone()))
            });
            assert!(wrong.is_empty(), "{context}, cut {cut}: {wrong:#?}");
        }
        if survived {
            drop(died);
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 20, "the backup was over too soon to show anything");
}
