//! Notes that decide over snapshots: brought back, protected and not.

use std::collections::HashMap;

use crate::format::note::Fact;
use crate::id::SnapshotId;
use crate::repository::{Repository, RepositoryError, SnapshotState};
use crate::storage::{Name, StorageError};

/// Brings forgotten snapshots back: all of them, or none where one is there no more.
///
/// # Errors
///
/// [`RepositoryError::SnapshotGone`] for the first that a collection has taken; that a collection
/// is at work.
///
/// # Durability
///
/// Durable on return.
pub fn undelete(repository: &Repository, snapshots: &[SnapshotId]) -> Result<(), RepositoryError> {
    // What a collection was about to take must be all there when the note counts, and stay. While a
    // manifest is there, so is all that it needs.
    let lock = repository.lock_collection()?;
    repository.cancel_plan(&lock)?;
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
