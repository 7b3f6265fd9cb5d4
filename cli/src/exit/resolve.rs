//! What it means that a name leads to no snapshot.

use cairn_engine::repository::newest::{Loss, LostSnapshot};
use cairn_engine::repository::reference::ResolveError;

use super::{Cause, Outcome};

/// Returns the exit code of a name that may be that of a lost snapshot.
pub(super) fn outcome(cause: Cause<'_>) -> Option<Outcome> {
    let ResolveError::InDoubt { lost, .. } = cause.downcast_ref()? else {
        return None;
    };
    let is_newer = |lost: &LostSnapshot| lost.loss == Loss::Unsupported;
    Some(match lost.iter().all(is_newer) {
        true => Outcome::Unsupported,
        false => Outcome::Damage,
    })
}

/// Returns what to do about it.
pub(super) fn hint(cause: Cause<'_>) -> Option<String> {
    Some(match cause.downcast_ref()? {
        ResolveError::Ambiguous { candidates, .. } => {
            let ids = candidates.iter().take(8);
            let ids: Vec<String> = ids.map(|id| id.to_hex()[..12].into()).collect();
            let ids = ids.join(", ");
            format!("give more digits of the one that is meant: {ids}")
        }
        ResolveError::InDoubt { older, .. } => {
            let older = older.map_or_else(
                || "`cairn snapshots` lists the others".to_owned(),
                |older| format!("the newest of the others is {}", older.short()),
            );
            format!(
                "name an older one by its id if that will do: {older}. `cairn repair --from` a \
                 copy of the repository brings a damaged one back"
            )
        }
        _ => "`cairn snapshots` lists what there is".to_owned(),
    })
}
