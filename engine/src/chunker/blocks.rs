//! Blocks: the zero test, and sets of a region's blocks.

use std::ops::Range;

use super::Geometry;

/// Bytes folded between two looks at the result: enough for the compiler to vectorise, few enough
/// that a block of data is told from a hole by its first bytes.
const STRIDE: usize = 512;

/// Returns whether all bytes are zero, at the speed of memory.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    strides.iter().all(|stride| or(stride) == 0) && or(rest) == 0
}

#[inline]
fn or(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |all, byte| all | byte)
}

const WORDS: usize = 4;

/// A set of the blocks of one region, counted from the region's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockSet {
    words: [u64; WORDS],
}

impl BlockSet {
    /// Most blocks in a region.
    pub const CAPACITY: usize = WORDS * 64;

    /// Returns the set of all blocks of a region.
    pub fn all(geometry: Geometry, region: &Range<u64>) -> Self {
        let mut all = Self::default();
        all.insert_bytes(geometry, region, region.clone());
        all
    }

    /// Returns the set of the blocks that are zero in a region's bytes.
    pub fn of_zeros(geometry: Geometry, bytes: &[u8]) -> Self {
        let mut zeros = Self::default();
        // A block is far shorter than memory.
        for (number, block) in bytes.chunks(geometry.block_len() as usize).enumerate() {
            if is_zero(block) {
                zeros.insert(number);
            }
        }
        zeros
    }

    /// Adds a block.
    ///
    /// # Panics
    ///
    /// If the number is not below [`BlockSet::CAPACITY`].
    pub fn insert(&mut self, block: usize) {
        self.words[block / 64] |= 1 << (block % 64);
    }

    /// Adds every block that disk bytes touch inside a region.
    pub fn insert_bytes(&mut self, geometry: Geometry, region: &Range<u64>, bytes: Range<u64>) {
        for block in geometry.blocks(region, bytes) {
            self.insert(block);
        }
    }

    /// Adds every block of a region that disk bytes cover whole; the last block of a disk is whole
    /// where the disk ends.
    pub fn insert_covered(&mut self, geometry: Geometry, region: &Range<u64>, bytes: Range<u64>) {
        for block in geometry.blocks(region, bytes.clone()) {
            let whole = geometry.bytes(region, block..block + 1);
            if bytes.start <= whole.start && whole.end <= bytes.end {
                self.insert(block);
            }
        }
    }

    /// Returns whether a block is in the set.
    pub fn contains(&self, block: usize) -> bool {
        block < Self::CAPACITY && self.words[block / 64] >> (block % 64) & 1 == 1
    }

    /// Returns whether the set has no block.
    pub fn is_empty(&self) -> bool {
        self.words == [0; WORDS]
    }

    /// Returns the first block in the set at or after `from`.
    pub(super) fn next_in(&self, from: usize) -> Option<usize> {
        self.next(from, |word| word)
    }

    /// Returns the first number at or after `from` that is not in the set, which may be
    /// [`BlockSet::CAPACITY`].
    pub(super) fn next_out(&self, from: usize) -> usize {
        self.next(from, |word| !word).unwrap_or(Self::CAPACITY)
    }

    fn next(&self, from: usize, of: impl Fn(u64) -> u64) -> Option<usize> {
        let mut mask = u64::MAX << (from % 64);
        for number in from / 64..WORDS {
            let word = of(self.words[number]) & mask;
            if word != 0 {
                return Some(number * 64 + word.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Returns the maximal runs of consecutive blocks in the set, in order.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.next_in(from)?;
            from = self.next_out(start);
            Some(start..from)
        })
    }

    /// Returns the blocks of this set that are not in the other.
    pub(super) fn difference(&self, other: &Self) -> Self {
        Self {
            words: std::array::from_fn(|at| self.words[at] & !other.words[at]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_set_bit_anywhere_is_not_zero() {
        let mut bytes = vec![0; 3 * STRIDE + 5];
        assert!(is_zero(&bytes));
        assert!(is_zero(&[]));
        for at in 0..bytes.len() {
            bytes[at] = 1 << (at % 8);
            assert!(!is_zero(&bytes), "byte {at}");
            assert!(is_zero(&bytes[at + 1..]), "after byte {at}");
            bytes[at] = 0;
        }
    }

    #[test]
    fn runs_and_neighbours_agree_with_a_plain_list() {
        let mut random = fastrand::Rng::with_seed(7);
        for density in [0.0, 0.05, 0.5, 0.95, 1.0] {
            let list: Vec<bool> = (0..BlockSet::CAPACITY)
                .map(|_| random.f64() < density)
                .collect();
            let mut set = BlockSet::default();
            let mut from_runs = vec![false; BlockSet::CAPACITY];
            (0..list.len())
                .filter(|&at| list[at])
                .for_each(|at| set.insert(at));
            for run in set.runs() {
                assert!(!set.contains(run.end), "a run is maximal");
                from_runs[run].fill(true);
            }
            assert_eq!(from_runs, list);
            assert_eq!(set.is_empty(), !list.contains(&true));
            for from in 0..=list.len() {
                let next_in = (from..list.len()).find(|&at| list[at]);
                let next_out = (from..list.len()).find(|&at| !list[at]);
                assert_eq!(set.next_in(from), next_in, "from {from}");
                assert_eq!(
                    set.next_out(from),
                    next_out.unwrap_or(list.len()),
                    "from {from}"
                );
            }
        }
    }

    #[test]
    fn a_block_is_touched_by_one_byte_and_covered_by_all_of_them() {
        let geometry = Geometry::new(4096, 65536);
        let region = 65536..65536 + 2 * 4096 + 7;
        let sets = |bytes: Range<u64>| {
            let (mut touched, mut covered) = (BlockSet::default(), BlockSet::default());
            touched.insert_bytes(geometry, &region, bytes.clone());
            covered.insert_covered(geometry, &region, bytes);
            let numbers = |set: BlockSet| set.runs().flatten().collect::<Vec<_>>();
            (numbers(touched), numbers(covered))
        };
        let (first, second) = (region.start, region.start + 4096);
        assert_eq!(sets(0..u64::MAX), (vec![0, 1, 2], vec![0, 1, 2]));
        assert_eq!(sets(first + 1..region.end), (vec![0, 1, 2], vec![1, 2]));
        assert_eq!(sets(first..region.end - 1), (vec![0, 1, 2], vec![0, 1]));
        assert_eq!(sets(second - 1..second + 1), (vec![0, 1], vec![]));
        assert_eq!(sets(0..first), (vec![], vec![]));
    }

    #[test]
    fn zero_blocks_are_found_in_a_short_last_block_too() {
        let mut bytes = vec![0; 4 * 4096 + 3];
        bytes[2 * 4096 - 1] = 1;
        bytes[3 * 4096] = 1;
        let zeros = BlockSet::of_zeros(Geometry::new(4096, 65536), &bytes);
        assert_eq!(zeros.runs().collect::<Vec<_>>(), [0..1, 2..3, 4..5]);
    }
}
