//! Where a chunk lies, and the keys and values of the index (`docs/format.md`, "Index").

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use crate::id::{ContentId, PackId, RepositoryId};

/// The first eight bytes of a [`PackId`]: enough to tell the packs of one repository apart, and
/// half of what an index entry would otherwise need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackPrefix([u8; 8]);

impl PackPrefix {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// Returns the prefix of a pack.
    pub fn of(pack: PackId) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *pack.as_bytes();
        Self([a, b, c, d, e, f, g, h])
    }

    /// Returns the prefix of these bytes.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        self.0
    }
}

/// Where a chunk or recipe node lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The pack.
    pub pack: PackPrefix,
    /// The frame, counted from the pack's first.
    pub frame: u16,
    /// The position among the frame's chunks.
    pub slot: u16,
    /// The chunk's plain length in bytes.
    pub len: u32,
}

impl Place {
    /// Length of the encoded form in bytes.
    pub const LEN: usize = 16;

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let [a, b, c, d, e, f, g, h] = self.pack.0;
        let [f0, f1] = self.frame.to_le_bytes();
        let [s0, s1] = self.slot.to_le_bytes();
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        [a, b, c, d, e, f, g, h, f0, f1, s0, s1, l0, l1, l2, l3]
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (pack, rest) = bytes.split_first_chunk()?;
        let (frame, rest) = rest.split_first_chunk()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        rest.is_empty().then_some(Self {
            pack: PackPrefix(*pack),
            frame: u16::from_le_bytes(*frame),
            slot: u16::from_le_bytes(*slot),
            len: u32::from_le_bytes(*len),
        })
    }
}

/// The key of the record that says whose index this is; shorter than any other key.
pub(super) const META_KEY: [u8; 1] = *b"m";

/// Before the id in the key of a taken-in record. Sixteen bytes, not one, so that listing the
/// records is one scan: after a single byte, one entry in 256 of the whole index would lie between
/// them, and every opener would read those.
pub(super) const RECORD_PREFIX: [u8; 16] = [b'p'; 16];

/// The least key behind all taken-in records.
pub(super) const RECORD_END: [u8; 16] = *b"pppppppppppppppq";

/// Grows with every change of keys or values; an index of another generation is rebuilt.
const GENERATION: u16 = 1;

const META_MAGIC: [u8; 8] = *b"CAIRNIDX";

/// Returns the value at [`META_KEY`] of this repository's index.
pub(super) fn meta_value(repository: RepositoryId) -> Vec<u8> {
    let mut value = META_MAGIC.to_vec();
    value.extend(GENERATION.to_le_bytes());
    value.extend(repository.as_bytes());
    value
}

/// What a key of the index stands for. The length alone tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The place to answer with.
    Entry(ContentId),
    /// One more place, in another pack, of an id that has an entry.
    Other(ContentId, PackPrefix),
    /// All places of this pack stand in the index.
    TakenIn(PackId),
    /// Whose index this is.
    Meta,
}

impl Key {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Entry(id) => id.as_bytes().to_vec(),
            Self::Other(id, pack) => [&id.as_bytes()[..], &pack.0].concat(),
            Self::TakenIn(pack) => [&RECORD_PREFIX[..], pack.as_bytes()].concat(),
            Self::Meta => META_KEY.to_vec(),
        }
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes == META_KEY {
            return Some(Self::Meta);
        }
        if let Some((prefix, pack)) = bytes.split_first_chunk::<16>()
            && *prefix == RECORD_PREFIX
            && let Ok(pack) = pack.try_into()
        {
            return Some(Self::TakenIn(PackId::from_bytes(pack)));
        }
        let (id, rest) = bytes.split_first_chunk()?;
        let id = ContentId::from_bytes(*id);
        match rest {
            [] => Some(Self::Entry(id)),
            rest => Some(Self::Other(id, PackPrefix(rest.try_into().ok()?))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "tests may panic"
    )]

    use super::*;

    const PLACE: Place = Place {
        pack: PackPrefix([1, 2, 3, 4, 5, 6, 7, 8]),
        frame: 0x0a09,
        slot: 0x0c0b,
        len: 0x100f_0e0d,
    };

    #[test]
    fn a_place_has_the_specified_bytes() {
        let bytes: Vec<u8> = (1..=16).collect();
        assert_eq!(PLACE.to_bytes()[..], bytes[..]);
        assert_eq!(Place::from_bytes(&bytes), Some(PLACE));
    }

    #[test]
    fn a_place_of_another_length_is_refused() {
        let bytes = [0; 32];
        for len in (0..=32).filter(|&len| len != Place::LEN) {
            assert_eq!(Place::from_bytes(&bytes[..len]), None, "{len}");
        }
    }

    #[test]
    fn every_byte_of_a_place_counts() {
        for byte in 0..Place::LEN {
            let mut bytes = PLACE.to_bytes();
            bytes[byte] ^= 0x40;
            let other = Place::from_bytes(&bytes).expect("any sixteen bytes are a place");
            assert_ne!(other, PLACE, "{byte}");
        }
    }

    #[test]
    fn keys_round_trip_and_other_lengths_are_refused() {
        let id = ContentId::from_bytes([b'p'; 32]);
        let pack = PackId::from_bytes([7; 32]);
        for key in [
            Key::Entry(id),
            Key::Other(id, PackPrefix::of(pack)),
            Key::TakenIn(pack),
            Key::Meta,
        ] {
            let bytes = key.to_bytes();
            assert_eq!(Key::from_bytes(&bytes), Some(key));
            for len in (0..bytes.len()).filter(|len| ![1, 32, 40].contains(len)) {
                assert_eq!(Key::from_bytes(&bytes[..len]), None, "{key:?} cut to {len}");
            }
        }
    }

    #[test]
    fn other_places_sort_behind_their_entry_and_before_the_next() {
        let id = |last| {
            let mut bytes = [9; 32];
            bytes[31] = last;
            ContentId::from_bytes(bytes)
        };
        let keys = [
            Key::Entry(id(1)),
            Key::Other(id(1), PackPrefix([0; 8])),
            Key::Other(id(1), PackPrefix([255; 8])),
            Key::Entry(id(2)),
        ];
        assert!(keys.map(Key::to_bytes).is_sorted());
    }

    #[test]
    fn records_lie_between_their_bounds() {
        for byte in [0, 255] {
            let key = Key::TakenIn(PackId::from_bytes([byte; 32])).to_bytes();
            assert!(key[..] >= RECORD_PREFIX[..] && key[..] < RECORD_END[..]);
        }
    }
}
