//! FastCDC v2020: the gear tables, and one cut.

use std::fmt;

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};
use zeroize::Zeroize;

use super::CutParams;

/// The 256 numbers that FastCDC hashes bytes by.
///
/// Cuts are part of a repository's format: the same bytes are cut alike only under the same table.
pub struct GearTable {
    gear: Box<[u64; 256]>,
    /// Each number shifted left by one, for the first byte of a pair.
    shifted: Box<[u64; 256]>,
}

impl GearTable {
    /// Returns the table of the `fastcdc` crate, which unencrypted repositories cut by.
    pub fn public() -> Self {
        let (gear, _) = get_gear_with_seed(0);
        Self::new(Box::new(std::array::from_fn(|byte| gear[byte])))
    }

    /// Returns a secret table, so that chunk lengths do not tell what the chunks hold.
    pub fn keyed(gear: Box<[u64; 256]>) -> Self {
        Self::new(gear)
    }

    fn new(gear: Box<[u64; 256]>) -> Self {
        let shifted = Box::new(std::array::from_fn(|byte| gear[byte] << 1));
        Self { gear, shifted }
    }
}

impl Drop for GearTable {
    fn drop(&mut self) {
        self.gear.zeroize();
        self.shifted.zeroize();
    }
}

impl fmt::Debug for GearTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GearTable")
    }
}

/// Finds where chunks end. Holds no state between cuts; share one among threads by reference.
#[derive(Debug)]
pub struct Cutter {
    params: CutParams,
    mask_s: u64,
    mask_l: u64,
    gear: GearTable,
}

impl Cutter {
    /// Returns a cutter by FastCDC v2020 with normalisation 2.
    pub fn new(params: CutParams, gear: GearTable) -> Self {
        let (mask_s, mask_l) = select_masks(params.avg() as usize, Normalization::Level2);
        Self {
            params,
            mask_s,
            mask_l,
            gear,
        }
    }

    /// Returns the chunk lengths.
    pub const fn params(&self) -> CutParams {
        self.params
    }

    /// Returns the length of the chunk that starts at the first byte of `tail`.
    ///
    /// `tail` reaches to the end of the segment, or at least as far as the longest chunk. Where it
    /// is shorter, an answer that leaves fewer than [`super::LOOK_AHEAD`] bytes of it is no answer.
    #[inline]
    pub fn cut(&self, tail: &[u8]) -> usize {
        let (_, len) = cut_gear(
            tail,
            self.params.min() as usize,
            self.params.avg() as usize,
            self.params.max() as usize,
            self.mask_s,
            self.mask_l,
            self.mask_s << 1,
            self.mask_l << 1,
            self.gear.gear.as_slice(),
            self.gear.shifted.as_slice(),
        );
        len
    }
}
