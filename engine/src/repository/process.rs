//! What this process tells others of itself.

use jiff::Timestamp;

use super::RepositoryError;
use crate::format::Unknown;
use crate::format::session::{SESSION_VERSION, SessionDocument, SessionKind};
use crate::id::SnapshotId;

/// Returns this machine's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Returns the document of a session of this process.
pub(super) fn session_document(
    kind: SessionKind,
    command: &str,
    pinned: Vec<SnapshotId>,
) -> Result<Vec<u8>, RepositoryError> {
    let document = SessionDocument {
        version: SESSION_VERSION,
        kind,
        host: host_name(),
        pid: std::process::id(),
        started: Timestamp::now(),
        command: command.to_owned(),
        pinned,
        unknown: Unknown::new(),
    };
    document.encode().map_err(RepositoryError::Session)
}
