//! What the errors of a repair mean.

use cairn_engine::repair::RepairError;

use super::{Cause, Outcome};

/// Returns the error that a repair only passes on.
pub(super) fn passed_on(cause: Cause<'_>) -> Option<Cause<'_>> {
    match cause.downcast_ref()? {
        RepairError::Repository(inner) => Some(inner),
        RepairError::Sessions(inner) => Some(inner),
        RepairError::Verify(inner) => Some(inner),
        RepairError::Recipe(inner) => Some(inner),
        _ => None,
    }
}

/// Returns the exit code of a repair's own error.
pub(super) fn outcome(cause: Cause<'_>) -> Option<Outcome> {
    match cause.downcast_ref()? {
        RepairError::Writers(_) => Some(Outcome::Locked),
        RepairError::Cancelled => Some(Outcome::Interrupted),
        _ => None,
    }
}

/// Returns what to do about a repair's own error.
pub(super) fn hint(cause: Cause<'_>) -> Option<&'static str> {
    match cause.downcast_ref()? {
        RepairError::Writers(_) => Some("run it again when they have ended"),
        _ => None,
    }
}
