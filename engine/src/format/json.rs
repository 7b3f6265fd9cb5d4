//! JSON documents: bounded, versioned, with unknown members kept.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::FormatError;
use super::cursor::at_most;

/// Members that this version does not know. They are kept and written back.
pub type Unknown = serde_json::Map<String, serde_json::Value>;

/// Parses a document of at most `limit` bytes.
pub(super) fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit: u64,
) -> Result<T, FormatError> {
    at_most(what, bytes.len() as u64, limit)?;
    serde_json::from_slice(bytes).map_err(|error| FormatError::BadDocument {
        what,
        line: error.line(),
        column: error.column(),
    })
}

/// Parses a document whose member `version` must be `supported`. The version is looked at first,
/// so that a newer document is refused as newer and not as damaged.
pub(super) fn decode_versioned<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit: u64,
    supported: u32,
) -> Result<T, FormatError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let Versioned { version } = decode(what, bytes, limit)?;
    check_version(what, version, supported)?;
    decode(what, bytes, limit)
}

pub(super) fn check_version(
    what: &'static str,
    found: u64,
    supported: u32,
) -> Result<(), FormatError> {
    if found == u64::from(supported) {
        return Ok(());
    }
    Err(FormatError::UnsupportedVersion {
        what,
        found,
        supported: supported.into(),
    })
}

/// Writes a document, without white space.
pub(super) fn encode<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents have text keys and no fallible members")
}

/// Writes a document of at most `limit` bytes.
pub(super) fn encode_bounded<T: Serialize>(
    what: &'static str,
    document: &T,
    limit: u64,
) -> Result<Vec<u8>, FormatError> {
    let bytes = encode(document);
    at_most(what, bytes.len() as u64, limit)?;
    Ok(bytes)
}

/// Returns a document with zeros for its own check: what that check covers. `None` where the
/// document does not hold these digits.
pub(super) fn zeroed<const N: usize>(bytes: &[u8], check: [u8; N]) -> Option<String> {
    let digits = hex::encode(check);
    let (before, after) = std::str::from_utf8(bytes).ok()?.split_once(&digits)?;
    Some([before, &"0".repeat(digits.len()), after].concat())
}

/// Times as RFC 3339 texts in UTC.
pub(crate) mod timestamp {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(time)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Bytes of a fixed length as lower-case hexadecimal digits.
pub(super) mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::format) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        out: S,
    ) -> Result<S::Ok, S::Error> {
        out.serialize_str(&hex::encode(bytes))
    }

    pub(in crate::format) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        let mut bytes = [0; N];
        if text.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(serde::de::Error::custom("digits must be lower-case"));
        }
        hex::decode_to_slice(&*text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(bytes)
    }
}
