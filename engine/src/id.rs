//! Identities: 32-byte BLAKE3 hashes and random numbers, each use with a type of its own.

use std::fmt;
use std::str::FromStr;

/// Returned when a text is not the lower-case hexadecimal form of an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an identity of {digits} hexadecimal digits")]
pub struct ParseIdError {
    /// How many digits the identity has.
    pub digits: usize,
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Returns the raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Returns the lower-case hexadecimal form.
            pub fn to_hex(&self) -> String {
                hex::encode(self.0)
            }

            /// Returns the first eight hexadecimal digits, as people read them.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let refused = ParseIdError { digits: 2 * $len };
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(refused);
                }
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| refused)?;
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&self.to_hex())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

identity!(
    /// A chunk of disk data: BLAKE3 of its plain bytes, keyed per repository.
    ChunkId,
    32
);
identity!(
    /// A recipe node: BLAKE3 of its encoded bytes, under another key than chunks.
    NodeId,
    32
);
identity!(
    /// What a pack holds and the index finds: the id of a chunk or of a recipe node.
    ContentId,
    32
);
identity!(
    /// A pack: BLAKE3 of the stored bytes of its whole file.
    PackId,
    32
);
identity!(
    /// A snapshot: BLAKE3 of the stored bytes of its manifest.
    SnapshotId,
    32
);
identity!(
    /// A note about a snapshot: BLAKE3 of its stored bytes.
    NoteId,
    32
);
identity!(
    /// A key slot: BLAKE3 of its stored bytes.
    KeyId,
    32
);
identity!(
    /// A repository: random, fixed at `init`.
    RepositoryId,
    32
);
identity!(
    /// A session (one process at work in a repository): random.
    SessionId,
    16
);

impl From<ChunkId> for ContentId {
    fn from(id: ChunkId) -> Self {
        Self(id.0)
    }
}

impl From<NodeId> for ContentId {
    fn from(id: NodeId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_form_round_trips() {
        let id = SessionId::from_bytes([0xa5; 16]);
        assert_eq!(id.to_hex().parse(), Ok(id));
        assert_eq!(id.short(), "a5a5a5a5");
    }

    #[test]
    fn other_texts_are_refused() {
        let refused = Err(ParseIdError { digits: 32 });
        for text in [
            "",
            "a5",
            &"A5".repeat(16),
            &"g0".repeat(16),
            &"00".repeat(17),
        ] {
            assert_eq!(text.parse::<SessionId>(), refused, "{text}");
        }
    }
}
