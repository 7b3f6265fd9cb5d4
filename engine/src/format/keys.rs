//! Key slots: the master key, wrapped. Specified in `docs/format.md`, "Key slots".

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::json;
use super::{FormatError, Unknown};
use crate::limits::SMALL_DOCUMENT_LEN_MAX;

/// Version of key slots.
pub const KEY_SLOT_VERSION: u32 = 1;
/// The kind of slots that a passphrase opens.
pub const PASSPHRASE_SLOT: &str = "passphrase";
/// Length of a wrapped master key: 32 bytes and a tag.
pub const WRAPPED_LEN: usize = 48;

const WHAT: &str = "key slot";

/// One way to get at the master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySlot {
    /// [`KEY_SLOT_VERSION`].
    pub version: u32,
    /// What opens it: [`PASSPHRASE_SLOT`]. Slots of other kinds are passed over.
    pub kind: String,
    /// A name for people.
    pub label: String,
    /// When it was made.
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    /// Makes the wrapping key of each slot another one.
    #[serde(with = "json::hex_bytes")]
    pub salt: [u8; 32],
    /// The sealed master key.
    #[serde(with = "json::hex_bytes")]
    pub wrapped: [u8; WRAPPED_LEN],
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl KeySlot {
    /// Encodes the slot.
    ///
    /// # Errors
    ///
    /// A slot longer than 1 MiB.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        json::check_version(WHAT, self.version.into(), KEY_SLOT_VERSION)?;
        json::encode_bounded(WHAT, self, SMALL_DOCUMENT_LEN_MAX)
    }

    /// Decodes a slot.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        json::decode_versioned(WHAT, bytes, SMALL_DOCUMENT_LEN_MAX, KEY_SLOT_VERSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_round_trip_with_unknown_members() -> Result<(), FormatError> {
        let (salt, wrapped) = ("0a".repeat(32), "b1".repeat(48));
        let text = format!(
            concat!(
                r#"{{"version":1,"kind":"passphrase","label":"ops","#,
                r#""created":"2026-11-20T08:00:00Z","salt":"{}","wrapped":"{}","hint":"h"}}"#
            ),
            salt, wrapped
        );
        let slot = KeySlot::decode(text.as_bytes())?;
        assert_eq!(slot.wrapped, [0xb1; 48]);
        assert_eq!(String::from_utf8_lossy(&slot.encode()?), text);
        for wrong in [text.replace("b1b1", "B1b1"), text.replace("b1b1", "b1")] {
            assert!(KeySlot::decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
        Ok(())
    }
}
