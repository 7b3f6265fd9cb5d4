//! Random numbers that a seed fixes (SplitMix64): a simulation must run the same way twice.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// Starts the stream that belongs to these numbers.
    pub(super) fn new(seeds: &[u64]) -> Self {
        let mut random = Self(0);
        for seed in seeds {
            random.0 ^= *seed;
            random.0 = random.next();
        }
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which is not 0. The bias of small bounds does no harm.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// Overwrites bytes with zeros, or with what was never written.
    pub(super) fn damage(&mut self, bytes: &mut [u8]) {
        if self.below(2) == 0 {
            bytes.fill(0);
            return;
        }
        for byte in bytes {
            *byte = self.next().to_le_bytes()[0];
        }
    }
}
