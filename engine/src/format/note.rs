//! Facts about a snapshot that came later. Specified in `docs/format.md`, "Notes".
//!
//! Notes are only ever added. What holds for a snapshot follows from all of them, in the order of
//! their times.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::json;
use super::{FormatError, Unknown};
use crate::id::SnapshotId;
use crate::limits::SMALL_DOCUMENT_LEN_MAX;

/// Version of notes.
pub const NOTE_VERSION: u32 = 1;

const WHAT: &str = "note";

/// One fact about one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The snapshot that it is about: a note put in another's place is none.
    pub snapshot: SnapshotId,
    /// When it became true.
    pub time: Timestamp,
    /// What became true.
    pub fact: Fact,
    /// Members that this version does not know.
    pub unknown: Unknown,
}

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The snapshot is given up: not listed, no parent, and no root for collections.
    Forgotten,
    /// It is wanted again.
    Undeleted,
    /// A collection has seen that it is forgotten, and has left it alone.
    Resting,
    /// It must not be forgotten.
    Protected,
    /// It may be forgotten again.
    Unprotected,
    /// Something outside of the repository counts on it: it must not be forgotten meanwhile.
    Pinned {
        /// What counts on it, such as the UUID of a domain.
        what: String,
    },
    /// That no longer counts on it.
    Unpinned {
        /// What counted on it.
        what: String,
    },
    /// It was verified without a finding.
    Verified {
        /// What was read: such as `data` or `metadata`.
        what: String,
    },
    /// It was proved to be of use: such as restored and booted.
    Proved {
        /// What was done.
        what: String,
    },
    /// It was tried in the same way, and was of no use: such as a guest that did not boot.
    Disproved {
        /// What was done, and what went wrong.
        what: String,
    },
    /// What was said to be unchanged since then was not: nothing is computed by its changes since
    /// this snapshot again.
    Mistrusted {
        /// The target of the disk.
        what: String,
    },
    /// A fact that this version does not know, and does not act on.
    Other {
        /// Its kind.
        kind: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    snapshot: SnapshotId,
    #[serde(with = "json::timestamp")]
    time: Timestamp,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    #[serde(flatten)]
    unknown: Unknown,
}

impl Note {
    /// Encodes the note, unsealed.
    ///
    /// # Errors
    ///
    /// A note longer than documents of its kind may be.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut unknown = self.unknown.clone();
        let (kind, what) = match &self.fact {
            Fact::Forgotten => ("forgotten", None),
            Fact::Undeleted => ("undeleted", None),
            Fact::Resting => ("resting", None),
            Fact::Protected => ("protected", None),
            Fact::Unprotected => ("unprotected", None),
            Fact::Pinned { what } => ("pinned", Some(what.clone())),
            Fact::Unpinned { what } => ("unpinned", Some(what.clone())),
            Fact::Verified { what } => ("verified", Some(what.clone())),
            Fact::Proved { what } => ("proved", Some(what.clone())),
            Fact::Disproved { what } => ("disproved", Some(what.clone())),
            Fact::Mistrusted { what } => ("mistrusted", Some(what.clone())),
            // A member `what` of an unknown fact is kept among the unknown members.
            Fact::Other { kind } => (kind.as_str(), take_text(&mut unknown, "what")),
        };
        let document = Document {
            version: NOTE_VERSION,
            snapshot: self.snapshot,
            time: self.time,
            kind: kind.to_owned(),
            what,
            unknown,
        };
        json::encode_bounded(WHAT, &document, SMALL_DOCUMENT_LEN_MAX)
    }

    /// Decodes an unsealed note.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let document: Document =
            json::decode_versioned(WHAT, bytes, SMALL_DOCUMENT_LEN_MAX, NOTE_VERSION)?;
        let mut unknown = document.unknown;
        let detail = document.what;
        let fact = match (document.kind.as_str(), detail) {
            ("forgotten", None) => Fact::Forgotten,
            ("undeleted", None) => Fact::Undeleted,
            ("resting", None) => Fact::Resting,
            ("protected", None) => Fact::Protected,
            ("unprotected", None) => Fact::Unprotected,
            ("pinned", Some(what)) => Fact::Pinned { what },
            ("unpinned", Some(what)) => Fact::Unpinned { what },
            ("verified", Some(what)) => Fact::Verified { what },
            ("proved", Some(what)) => Fact::Proved { what },
            ("disproved", Some(what)) => Fact::Disproved { what },
            ("mistrusted", Some(what)) => Fact::Mistrusted { what },
            (
                "forgotten" | "undeleted" | "resting" | "protected" | "unprotected" | "pinned"
                | "unpinned" | "verified" | "proved" | "disproved" | "mistrusted",
                _,
            ) => {
                return Err(FormatError::Malformed {
                    rule: "pins, `verified`, `proved`, `disproved` and `mistrusted` must say what, \
                           others not",
                });
            }
            (_, detail) => {
                unknown.extend(detail.map(|what| ("what".to_owned(), what.into())));
                Fact::Other {
                    kind: document.kind,
                }
            }
        };
        Ok(Self {
            snapshot: document.snapshot,
            time: document.time,
            fact,
            unknown,
        })
    }
}

fn take_text(members: &mut Unknown, name: &str) -> Option<String> {
    let text = members.get(name)?.as_str()?.to_owned();
    members.remove(name);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_round_trips() -> Result<(), FormatError> {
        let what = "data".to_owned();
        for fact in [
            Fact::Forgotten,
            Fact::Undeleted,
            Fact::Resting,
            Fact::Protected,
            Fact::Unprotected,
            Fact::Pinned { what: what.clone() },
            Fact::Unpinned { what: what.clone() },
            Fact::Verified { what: what.clone() },
            Fact::Proved { what: what.clone() },
            Fact::Disproved { what: what.clone() },
            Fact::Mistrusted { what },
        ] {
            let note = Note {
                snapshot: SnapshotId::from_bytes([7; 32]),
                time: Timestamp::from_second(1_795_000_000).expect("in range"),
                fact,
                unknown: Unknown::new(),
            };
            assert_eq!(Note::decode(&note.encode()?)?, note);
        }
        Ok(())
    }

    #[test]
    fn unknown_facts_and_members_are_kept() -> Result<(), FormatError> {
        let text = format!(
            concat!(
                r#"{{"version":1,"snapshot":"{}","time":"2026-11-20T08:00:00Z","#,
                r#""kind":"archived","what":"tape","shelf":7}}"#
            ),
            "5a".repeat(32)
        );
        let note = Note::decode(text.as_bytes())?;
        let kind = "archived".to_owned();
        assert_eq!(note.fact, Fact::Other { kind });
        assert_eq!(String::from_utf8_lossy(&note.encode()?), text);
        Ok(())
    }

    #[test]
    fn a_fact_says_what_it_must_say_and_no_more() {
        for (kind, what) in [
            ("pinned", ""),
            ("unpinned", ""),
            ("proved", ""),
            ("disproved", ""),
            ("mistrusted", ""),
            ("forgotten", r#","what":"x""#),
        ] {
            let (id, time) = ("5a".repeat(32), "2026-11-20T08:00:00Z");
            let text = format!(
                r#"{{"version":1,"snapshot":"{id}","time":"{time}","kind":"{kind}"{what}}}"#
            );
            let refused = Note::decode(text.as_bytes());
            assert!(
                matches!(refused, Err(FormatError::Malformed { .. })),
                "{kind}"
            );
        }
    }

    #[test]
    fn a_newer_note_is_refused_as_newer() {
        let newer = FormatError::UnsupportedVersion {
            what: "note",
            found: 2,
            supported: 1,
        };
        assert_eq!(Note::decode(br#"{"version":2}"#), Err(newer));
        for text in ["", "{}", "[]", r#"{"version":1}"#, r#"{"version":-1}"#] {
            let refused = Note::decode(text.as_bytes());
            assert!(
                matches!(refused, Err(FormatError::BadDocument { .. })),
                "{text}"
            );
        }
    }
}
