//! A disk that is full, or fails, at any step of a backup: a typed error, nothing published,
//! nothing lost, and all well once there is space.

use std::error::Error;
use std::io::ErrorKind;

use cairn_engine::id::SnapshotId;
use cairn_engine::progress::Cancel;
use cairn_engine::repository::Snapshot;
use cairn_engine::storage::StorageError;
use cairn_engine::storage::sim::{Fault, FaultKind, FaultOn, SimFs};

use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::{chain, faults, init_with_parity, open_on, scratch};
use crate::support::{MemorySource, backup, backup_against, edit, random_disk, seed};

/// A repository with one snapshot on a simulated disk, and what the disk is to be next.
struct World {
    seed: u64,
    disk: SimFs,
    first: SnapshotId,
    before: Vec<u8>,
    bytes: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let seed = seed();
        let (disk, cache) = (SimFs::new(seed), scratch());
        let mut random = fastrand::Rng::with_seed(seed);
        let before = random_disk(&mut random, 400_000);
        let parity = seed.is_multiple_of(2).then_some(10);
        let repository = init_with_parity(&disk, cache.path(), parity);
        let repository = repository.expect("the repository is made");
        let source = MemorySource::new(before.clone());
        let done = backup(&repository, source, None, &Cancel::default()).expect("backs up");
        let mut bytes = before.clone();
        edit(&mut random, &mut bytes);
        bytes[70_000..300_000].fill_with(|| random.u8(b'a'..b'k'));
        Self {
            seed,
            disk,
            first: done.snapshot,
            before,
            bytes,
        }
    }

    /// Returns the disk, ready for the second backup.
    fn copy(&self) -> SimFs {
        self.disk.crash_image(self.disk.op_count(), 0)
    }

    fn source(&self) -> MemorySource {
        MemorySource::changed_since(&self.before, self.bytes.clone(), false)
    }

    fn bytes_of(&self, snapshot: &Snapshot) -> Option<Vec<u8>> {
        Some(
            if snapshot.id == self.first {
                &self.before
            } else {
                &self.bytes
            }
            .clone(),
        )
    }

    /// Backs up while the disk fails at call `at`; returns whether the disk came to fail.
    fn fails_at(&self, at: usize, lasting: bool, kind: FaultKind) -> bool {
        let context = format!("seed {}, {kind:?} at {at}, lasting: {lasting}", self.seed);
        let (disk, cache) = (self.copy(), scratch());
        let repository = open_on(&disk, cache.path()).expect("nothing fails yet");
        disk.inject(Fault {
            on: FaultOn::Changes,
            at,
            lasting,
            kind,
        });
        let result = backup(
            &repository,
            self.source(),
            Some(self.first),
            &Cancel::default(),
        );
        drop(repository);
        let has_failed = disk.op_count() > at;
        disk.heal();
        // Another process: what this one knows of failures is no longer known.
        let disk = disk.spawn();
        let repository = open_on(&disk, cache.path()).expect("the repository opens");
        let wrong = faults(&repository, |snapshot| self.bytes_of(snapshot));
        assert!(wrong.is_empty(), "{context}: {wrong:#?}");
        let listed = repository
            .snapshots()
            .expect("snapshots are listed")
            .snapshots
            .len();
        match &result {
            Ok(done) => assert!(listed == 2, "{context}: {:?}", done.snapshot),
            Err(error) => {
                let is_it = match kind {
                    FaultKind::Io => is_io as fn(&StorageError) -> bool,
                    _ => is_no_space,
                };
                assert!(any_cause(error, is_it), "{context}: {}", chain(error));
                // Only where the name was given and its folder could not be synced may it be
                // there.
                let log = disk.log();
                let is_sync = log.get(at).is_some_and(|op| op.starts_with("LoseFolder"));
                assert!(listed == 1 || is_sync, "{context}: published, {}", log[at]);
            }
        }
        let again = backup(
            &repository,
            self.source(),
            Some(self.first),
            &Cancel::default(),
        );
        again.unwrap_or_else(|error| panic!("{context}: {}", chain(&error)));
        let wrong = faults(&repository, |snapshot| self.bytes_of(snapshot));
        assert!(wrong.is_empty(), "{context}: {wrong:#?}");
        has_failed
    }
}

fn is_no_space(error: &StorageError) -> bool {
    match error {
        StorageError::NoSpace { .. } => true,
        // The reason of the failure that ended all publishing.
        StorageError::PreviousFailure {
            source: Some(source),
            ..
        } => source.kind() == ErrorKind::StorageFull,
        _ => false,
    }
}

fn is_io(error: &StorageError) -> bool {
    let sticky = matches!(
        error,
        StorageError::PreviousFailure {
            source: Some(_),
            ..
        }
    );
    sticky || matches!(error, StorageError::Io { .. })
}

fn any_cause(error: &(dyn Error + 'static), is_it: fn(&StorageError) -> bool) -> bool {
    use cairn_engine::backup::BackupError;
    use cairn_engine::pack::PackError;
    use cairn_engine::repository::RepositoryError;

    // Transparent variants hand on the cause of what they hold, and so hide it from a walk.
    let held = if let Some(BackupError::Repository(error)) = error.downcast_ref() {
        Some(error as &(dyn Error + 'static))
    } else if let Some(RepositoryError::Pack(error)) = error.downcast_ref() {
        Some(error as &(dyn Error + 'static))
    } else if let Some(RepositoryError::Storage(error)) = error.downcast_ref() {
        Some(error as &(dyn Error + 'static))
    } else if let Some(PackError::Storage(error)) = error.downcast_ref() {
        Some(error as &(dyn Error + 'static))
    } else {
        error.source()
    };
    error.downcast_ref().is_some_and(is_it) || held.is_some_and(|held| any_cause(held, is_it))
}

/// Lets every change fail, one after the other, until none is left to fail.
fn at_every_change(kinds: &[(FaultKind, bool)]) {
    let world = World::new();
    for at in 0.. {
        let (kind, lasting) = kinds[at % kinds.len()];
        if !world.fails_at(at, lasting, kind) {
            assert!(at > 40, "the backup was over too soon to show anything");
            return;
        }
    }
}

#[test]
fn a_full_disk_at_any_step_is_an_error_and_nothing_more() {
    at_every_change(&[(FaultKind::NoSpace, true), (FaultKind::Short, true)]);
}

#[test]
fn space_that_lacks_for_a_moment_at_any_step_loses_nothing() {
    at_every_change(&[(FaultKind::Short, false), (FaultKind::NoSpace, false)]);
}

#[test]
fn a_failing_write_or_fsync_at_any_step_is_an_error_and_nothing_more() {
    at_every_change(&[(FaultKind::Io, false)]);
}

#[test]
fn a_failing_read_at_any_step_never_gives_wrong_bytes() {
    let world = World::new();
    let mut failures = [0; 3];
    for (number, failed) in failures.iter_mut().enumerate() {
        for kind in [FaultKind::Io, FaultKind::Short] {
            for at in 0.. {
                let (disk, cache) = (world.copy(), scratch());
                let repository = open_on(&disk, cache.path()).expect("nothing fails yet");
                let list = repository.snapshots().expect("nothing fails yet");
                let at = disk.read_count() + at;
                disk.inject(Fault {
                    on: FaultOn::Reads,
                    at,
                    lasting: false,
                    kind,
                });
                let context = format!("seed {}, {number}, {kind:?} at {at}", world.seed);
                let failure = match number {
                    0 => restore_fresh(&repository, &list.snapshots[0])
                        .map(|bytes| assert!(bytes == world.before, "{context}"))
                        .map_err(|error| chain(&error)),
                    1 => verify_fresh(&repository)
                        .map(drop)
                        .map_err(|error| chain(&error)),
                    _ => {
                        let (source, parent) = (world.source(), list.snapshots.first().cloned());
                        backup_against(&repository, source, parent, &Cancel::default())
                            .map(drop)
                            .map_err(|error| chain(&error))
                    }
                };
                *failed += usize::from(failure.is_err());
                if disk.read_count() <= at {
                    break;
                }
                disk.heal();
                let wrong = faults(&repository, |snapshot| world.bytes_of(snapshot));
                assert!(wrong.is_empty(), "{context}, {failure:?}: {wrong:#?}");
            }
        }
    }
    assert!(failures.iter().all(|failed| *failed > 5), "{failures:?}");
}
