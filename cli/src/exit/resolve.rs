//! What it means that a name leads to no snapshot.

use cairn_engine::repository::newest::{Loss, LostSnapshot};
use cairn_engine::repository::reference::{ID_PREFIX_LEN_MIN, ResolveError};

use super::{Cause, Outcome};

/// Names lead to no snapshot, and there is something to say about it.
#[derive(Debug, thiserror::Error)]
pub enum NoSnapshot {
    /// It is forgotten.
    #[error("there is no snapshot `{reference}` any more: {snapshot}, is forgotten")]
    Forgotten {
        /// What was typed.
        reference: String,
        /// The one that was probably meant.
        snapshot: String,
    },
    /// Too few digits of an id.
    #[error("there is no snapshot `{reference}`, and no VM of that name")]
    TooShort {
        /// What was typed.
        reference: String,
    },
    /// There are such VMs, but not then.
    #[error("there is no snapshot `{reference}`: the VM has none so old")]
    TooOld {
        /// What was typed.
        reference: String,
        /// The VM.
        vm: String,
    },
    /// The VM is not there.
    #[error("there is no snapshot `{reference}`")]
    NoVm {
        /// What was typed.
        reference: String,
        /// One of nearly that name.
        near: Option<String>,
    },
}

impl NoSnapshot {
    /// Finds the VM that was probably meant.
    pub fn nearest<'a>(reference: String, vm: &str, vms: impl Iterator<Item = &'a str>) -> Self {
        let of_all = |name: &'a str| (strsim::damerau_levenshtein(vm, name), name);
        match vms.map(of_all).min() {
            Some((0, name)) if reference.contains('@') => {
                let vm = name.to_owned();
                Self::TooOld { reference, vm }
            }
            Some((distance, name)) if distance <= 1 + vm.chars().count() / 4 => {
                let near = Some(name.to_owned());
                Self::NoVm { reference, near }
            }
            _ if vm.len() < ID_PREFIX_LEN_MIN && vm.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Self::TooShort { reference }
            }
            _ => Self::NoVm {
                reference,
                near: None,
            },
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Forgotten { reference, .. } => {
                format!("`cairn undelete {reference}` brings it back")
            }
            Self::TooShort { .. } => {
                format!("if that begins an id, give at least {ID_PREFIX_LEN_MIN} digits of it")
            }
            Self::TooOld { vm, .. } => format!("`cairn snapshots {vm}` lists those that there are"),
            Self::NoVm {
                near: Some(near), ..
            } => format!("is `{near}` meant?"),
            Self::NoVm { near: None, .. } => "`cairn snapshots` lists what there is".to_owned(),
        }
    }
}

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
    if let Some(none) = cause.downcast_ref() {
        return Some(NoSnapshot::hint(none));
    }
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
