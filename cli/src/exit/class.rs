//! The classes of failures in JSON documents: finer than exit codes, and as fixed.

use std::io::ErrorKind;

use anyhow::Error;
use cairn_engine::repository::reference::ResolveError;
use cairn_engine::storage::StorageError;
use cairn_engine::target::TargetError;

use super::resolve::NoSnapshot;
use super::{Cause, Outcome, causes};

/// Returns the class of an error, for programs.
pub(super) fn of(error: &Error, outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Usage => "usage",
        Outcome::NoRepository => "not_found",
        Outcome::Locked => "locked",
        Outcome::Unsupported => "unsupported",
        Outcome::Damage => "damage",
        Outcome::WrongPassword => "wrong_key",
        Outcome::Interrupted => "cancelled",
        Outcome::Done | Outcome::Failed | Outcome::Problems => {
            causes(error).find_map(of_failure).unwrap_or("failed")
        }
    }
}

fn of_failure(cause: Cause<'_>) -> Option<&'static str> {
    if cause.is::<ResolveError>() || cause.is::<NoSnapshot>() {
        return Some("not_found");
    }
    if let Some(error) = cause.downcast_ref::<StorageError>() {
        return match error {
            StorageError::NoSpace { .. } => Some("no_space"),
            error if error.is_denied() => Some("denied"),
            _ => None,
        };
    }
    if let Some(TargetError::NoSpace { .. }) = cause.downcast_ref() {
        return Some("no_space");
    }
    match cause.downcast_ref::<std::io::Error>()?.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("no_space"),
        ErrorKind::PermissionDenied => Some("denied"),
        ErrorKind::NotFound => Some("not_found"),
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable => Some("unreachable"),
        _ => None,
    }
}
