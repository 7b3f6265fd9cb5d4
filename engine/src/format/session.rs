//! What a session says of itself to others. Specified in `docs/format.md`, "Sessions".

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::json;
use super::{FormatError, Unknown};
use crate::id::SnapshotId;
use crate::limits::SESSION_LEN_MAX;

/// Version of session documents.
pub const SESSION_VERSION: u32 = 1;

const WHAT: &str = "session document";

/// One process at work in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDocument {
    /// [`SESSION_VERSION`].
    pub version: u32,
    /// What the process may do.
    pub kind: SessionKind,
    /// Its host.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When the session began.
    #[serde(with = "json::timestamp")]
    pub started: Timestamp,
    /// The command at work, such as `backup`.
    pub command: String,
    /// The snapshots that it reads: roots for collections while it lives.
    pub pinned: Vec<SnapshotId>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// Adds packs and manifests; a collection waits for it.
    Writer,
    /// Reads the snapshots that it pins.
    Reader,
}

impl SessionDocument {
    /// Encodes the document.
    ///
    /// # Errors
    ///
    /// A document longer than its kind may be: too many pins.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        json::check_version(WHAT, self.version.into(), SESSION_VERSION)?;
        json::encode_bounded(WHAT, self, SESSION_LEN_MAX)
    }

    /// Decodes a document.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        json::decode_versioned(WHAT, bytes, SESSION_LEN_MAX, SESSION_VERSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_round_trip_with_unknown_members() -> Result<(), FormatError> {
        let pin = "5a".repeat(32);
        let text = format!(
            concat!(
                r#"{{"version":1,"kind":"reader","host":"h","pid":7,"#,
                r#""started":"2026-11-20T08:00:00Z","command":"restore","#,
                r#""pinned":["{}"],"lease":60}}"#
            ),
            pin
        );
        let document = SessionDocument::decode(text.as_bytes())?;
        assert_eq!(document.kind, SessionKind::Reader);
        assert_eq!(document.pinned, [SnapshotId::from_bytes([0x5a; 32])]);
        assert_eq!(String::from_utf8_lossy(&document.encode()?), text);
        let many = SessionDocument {
            pinned: vec![document.pinned[0]; 100_000],
            ..document
        };
        assert_eq!(SessionDocument::decode(&many.encode()?)?, many);
        let unknown_kind = text.replace("reader", "observer");
        assert!(SessionDocument::decode(unknown_kind.as_bytes()).is_err());
        Ok(())
    }
}
