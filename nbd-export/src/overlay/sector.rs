//! A sector of a map: which of 3968 blocks are in it, with a check of its own, so that the medium
//! may tear a page of the map and every sector still says either what was or what is.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

use super::layout::{Area, SECTOR_LEN, SECTOR_WORDS};

/// Bits of blocks, least first.
pub(super) type Words = [u64; SECTOR_WORDS];

const CHECK_LEN: usize = 16;
const CONTEXT: &str = "Cairn 2026 overlay 1 map";

/// Makes and checks the sectors of one overlay's maps.
#[derive(Debug, Clone)]
pub(super) struct SectorCodec {
    key: [u8; 32],
}

impl SectorCodec {
    /// Takes the overlay's random id.
    pub(super) fn new(id: &[u8; 32]) -> Self {
        Self {
            key: blake3::derive_key(CONTEXT, id),
        }
    }

    /// A sector holds only where it was made for.
    fn check(&self, area: Area, number: u64, bytes: &[u8]) -> [u8; CHECK_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let area = match area {
            Area::Written => 0,
            Area::Flushed => 1,
        };
        hasher.update(&[area]);
        hasher.update(&number.to_le_bytes());
        hasher.update(bytes);
        let mut check = [0; CHECK_LEN];
        hasher.finalize_xof().fill(&mut check);
        check
    }

    /// Returns the sector that stands at `number` of a map. Without blocks it is zeros, as where
    /// nothing was written yet.
    pub(super) fn encode(&self, area: Area, number: u64, words: &Words) -> [u8; SECTOR_LEN] {
        let mut sector = [0; SECTOR_LEN];
        if words.iter().all(|word| *word == 0) {
            return sector;
        }
        let (head, body) = sector.split_at_mut(CHECK_LEN);
        for (bytes, word) in body.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        head.copy_from_slice(&self.check(area, number, body));
        sector
    }

    /// Reads a sector; `None` if it is not what was written there.
    pub(super) fn decode(
        &self,
        area: Area,
        number: u64,
        sector: &[u8; SECTOR_LEN],
    ) -> Option<Words> {
        let mut words = [0; SECTOR_WORDS];
        if *sector == [0; SECTOR_LEN] {
            return Some(words);
        }
        let (stored, body) = sector.split_first_chunk::<CHECK_LEN>()?;
        if self.check(area, number, body) != *stored {
            return None;
        }
        for (bytes, word) in body.as_chunks::<8>().0.iter().zip(&mut words) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        std::array::from_fn(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn a_sector_comes_back_and_no_flipped_byte_passes() {
        let codec = SectorCodec::new(&[7; 32]);
        let bytes = codec.encode(Area::Flushed, 5, &words());
        assert_eq!(codec.decode(Area::Flushed, 5, &bytes), Some(words()));
        for at in 0..SECTOR_LEN {
            let mut flipped = bytes;
            flipped[at] ^= 0x10;
            assert_eq!(codec.decode(Area::Flushed, 5, &flipped), None, "byte {at}");
        }
    }

    #[test]
    fn a_sector_holds_nowhere_else() {
        let codec = SectorCodec::new(&[7; 32]);
        let bytes = codec.encode(Area::Flushed, 5, &words());
        assert_eq!(codec.decode(Area::Flushed, 6, &bytes), None);
        assert_eq!(codec.decode(Area::Written, 5, &bytes), None);
        let other = SectorCodec::new(&[8; 32]);
        assert_eq!(other.decode(Area::Flushed, 5, &bytes), None);
    }

    #[test]
    fn what_was_never_written_holds_no_blocks() {
        let codec = SectorCodec::new(&[7; 32]);
        let empty = [0; SECTOR_WORDS];
        assert_eq!(
            codec.decode(Area::Written, 9, &[0; SECTOR_LEN]),
            Some(empty)
        );
        assert_eq!(codec.encode(Area::Written, 9, &empty), [0; SECTOR_LEN]);
    }
}
