//! What must stay: the snapshots that are not to be taken, and those that someone reads.

use std::collections::BTreeSet;

use crate::format::session::{SessionDocument, SessionKind};
use crate::id::SnapshotId;
use crate::repository::{Repository, Snapshot, grace};

use super::{GcError, GcOptions};

/// The snapshots of a repository, told apart.
pub(super) struct Roots {
    /// Those whose contents must stay.
    pub(super) kept: Vec<Snapshot>,
    /// Those that may go, ascending.
    pub(super) taken: Vec<SnapshotId>,
}

/// Looks at sessions, notes and manifests, in this order. `may_take` says which snapshots may go at
/// all.
///
/// Whoever reads a snapshot for longer than a session lasts pins it before the session ends. So the
/// sessions come first: who is not seen in one any more is seen in the note. A manifest that is
/// published meanwhile has no notes that we know, and is kept.
///
/// # Errors
///
/// A manifest that cannot be read: nobody knows what it needs.
pub(super) fn look(
    repository: &Repository,
    options: &GcOptions<'_>,
    may_take: impl Fn(SnapshotId) -> bool,
) -> Result<Roots, GcError> {
    let pins = pins(repository)?;
    let mut list = repository.snapshots()?;
    if let Some(unreadable) = list.unreadable.pop() {
        return Err(GcError::UnreadableSnapshot {
            snapshot: unreadable.id,
            source: unreadable.error,
        });
    }
    let is_taken = |snapshot: &Snapshot| {
        let is_read = pins.as_ref().is_none_or(|pins| pins.contains(&snapshot.id));
        may_take(snapshot.id)
            && !is_read
            && grace::taken(&snapshot.state, options.grace, options.now)
    };
    let (taken, kept): (Vec<_>, Vec<_>) = list.snapshots.into_iter().partition(is_taken);
    let mut taken: Vec<SnapshotId> = taken.iter().map(|snapshot| snapshot.id).collect();
    taken.sort_unstable();
    Ok(Roots { kept, taken })
}

/// Returns the snapshots that someone reads; `None` where a session cannot be understood, which may
/// read any of them.
fn pins(repository: &Repository) -> Result<Option<BTreeSet<SnapshotId>>, GcError> {
    let mut pins = BTreeSet::new();
    for session in repository.storage().sessions()? {
        if !session.alive {
            continue;
        }
        match SessionDocument::decode(&session.document) {
            Ok(document) if document.kind == SessionKind::Reader => pins.extend(document.pinned),
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(pins))
}
