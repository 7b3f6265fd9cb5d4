//! What the errors of a repair mean.

use cairn_engine::image::ImageError;
use cairn_engine::recipe::RecipeError;
use cairn_engine::repair::RepairError;
use cairn_engine::repository::RepositoryError;

use super::{Cause, Outcome};

/// The settings or the key slots are damaged, and this client has copies of them.
#[derive(Debug, thiserror::Error)]
#[error("what opens the repository is damaged, and this client keeps a copy of it")]
pub struct HasSpare(#[source] pub RepositoryError);

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
    if cause.is::<HasSpare>() {
        return Some(Outcome::Damage);
    }
    match cause.downcast_ref()? {
        RepairError::Writers(_) => Some(Outcome::Locked),
        RepairError::Cancelled => Some(Outcome::Interrupted),
        _ => None,
    }
}

/// Returns what to do about a repair's own error.
pub(super) fn hint(cause: Cause<'_>) -> Option<&'static str> {
    if cause.is::<HasSpare>() {
        return Some("`cairn repair --config` checks the copy and puts it back");
    }
    if let Some(RepositoryError::NoSpare) = cause.downcast_ref() {
        return Some("run it where the repository was opened before, or restore it from a copy");
    }
    match cause.downcast_ref()? {
        RepairError::Writers(_) => Some("run it again when they have ended"),
        _ => None,
    }
}

/// What can be done about damage, wherever it shows.
pub const DAMAGE_HINT: &str = "`cairn verify` names what is damaged and whom it hurts, \
    `cairn repair` mends what can be mended, and `cairn restore --salvage` writes all that is \
    whole";

/// Returns that, where a disk's recipe or its bytes are damaged.
pub fn damage_hint(cause: Cause<'_>) -> Option<&'static str> {
    let recipe = cause.downcast_ref().is_some_and(RecipeError::is_damage);
    let image = cause.downcast_ref().is_some_and(ImageError::is_damage);
    (recipe || image).then_some(DAMAGE_HINT)
}
