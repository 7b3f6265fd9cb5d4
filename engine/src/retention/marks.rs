//! Notes that decide over snapshots: brought back, protected and not.

use std::collections::HashMap;

use crate::format::note::Fact;
use crate::id::SnapshotId;
use crate::repository::{Repository, RepositoryError, SnapshotState};
use crate::storage::{CollectionLock, Name, StorageError};

/// Brings forgotten snapshots back: all of them, or none where one is there no more.
///
/// # Errors
///
/// [`RepositoryError::SnapshotGone`] for the first that a collection has taken, and
/// [`StorageError::Locked`] while one is at work.
///
/// # Durability
///
/// Durable on return.
pub fn undelete(repository: &Repository, snapshots: &[SnapshotId]) -> Result<(), RepositoryError> {
    // What a collection is about to take must be all there when the note counts: none is at work
    // until the end, and nobody keeps to the plan of one that came back another day.
    let lock = repository.lock_collection()?;
    cancel_plan(repository, &lock)?;
    let states = present(repository, snapshots)?;
    mark(repository, snapshots, &states, &Fact::Undeleted)
}

/// Protects snapshots: neither `forget` nor a policy forgets them from now on.
///
/// # Errors
///
/// [`RepositoryError::SnapshotGone`] for the first that is not there.
///
/// # Durability
///
/// Durable on return.
pub fn protect(repository: &Repository, snapshots: &[SnapshotId]) -> Result<(), RepositoryError> {
    let states = present(repository, snapshots)?;
    mark(repository, snapshots, &states, &Fact::Protected)
}

/// Ends the protection of snapshots.
///
/// # Errors
///
/// [`RepositoryError::SnapshotGone`] for the first that is not there.
///
/// # Durability
///
/// Durable on return.
pub fn unprotect(repository: &Repository, snapshots: &[SnapshotId]) -> Result<(), RepositoryError> {
    let states = present(repository, snapshots)?;
    mark(repository, snapshots, &states, &Fact::Unprotected)
}

/// Deletes the plan of a collection that is not at work. All that it condemned and that is still
/// there is as good as ever, and the next collection plans anew.
fn cancel_plan(repository: &Repository, lock: &CollectionLock) -> Result<(), RepositoryError> {
    match repository.collection_plan() {
        Ok(None) => Ok(()),
        // One that cannot be read is of use to nobody.
        Ok(Some(_)) => repository.delete_plan(lock),
        Err(error) if error.is_damage() => repository.delete_plan(lock),
        Err(error) => Err(error),
    }
}

/// Reads the notes anew, and fails unless all the snapshots are there.
fn present(
    repository: &Repository,
    snapshots: &[SnapshotId],
) -> Result<HashMap<SnapshotId, SnapshotState>, RepositoryError> {
    for id in snapshots {
        match repository.storage().len(&Name::Snapshot(*id)) {
            Ok(_) => {}
            Err(StorageError::NotFound(_)) => return Err(RepositoryError::SnapshotGone(*id)),
            Err(error) => return Err(error.into()),
        }
    }
    repository.states()
}

fn mark(
    repository: &Repository,
    snapshots: &[SnapshotId],
    states: &HashMap<SnapshotId, SnapshotState>,
    fact: &Fact,
) -> Result<(), RepositoryError> {
    for id in snapshots {
        // The note must hold whatever the clock was when those before it were written.
        let after = states.get(id).and_then(|state| state.last_note);
        repository.add_note_after(*id, fact.clone(), after)?;
    }
    Ok(())
}
