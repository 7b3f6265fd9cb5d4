//! The code over one group: what its parity blocks are, and what they give back.

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

use crate::format::parity::ParityLayout;
use crate::limits::PARITY_BLOCK_LEN;

const FITS: &str = "a group has members and spares as the code allows";

/// Gives the parity blocks of one group after the other.
pub(super) struct Encoder(HighRateEncoder<DefaultEngine>);

impl Encoder {
    pub(super) fn new(layout: &ParityLayout) -> Self {
        let (members, spares) = counts(layout);
        let engine = DefaultEngine::new();
        let coder = HighRateEncoder::new(members, spares, PARITY_BLOCK_LEN, engine, None);
        Self(coder.expect(FITS))
    }

    /// Takes the group's next member.
    pub(super) fn add(&mut self, block: &[u8]) {
        self.0.add_original_shard(block).expect(FITS);
    }

    /// Returns the parity blocks of the members that were added, and begins another group.
    pub(super) fn finish(&mut self) -> Vec<Vec<u8>> {
        let encoded = self.0.encode().expect("all members were added");
        encoded.recovery_iter().map(<[u8]>::to_vec).collect()
    }
}

/// Gives back the members of one group after the other that are lost.
pub(super) struct Decoder(HighRateDecoder<DefaultEngine>);

impl Decoder {
    pub(super) fn new(layout: &ParityLayout) -> Self {
        let (members, spares) = counts(layout);
        let engine = DefaultEngine::new();
        let coder = HighRateDecoder::new(members, spares, PARITY_BLOCK_LEN, engine, None);
        Self(coder.expect(FITS))
    }

    /// Takes a member that is whole.
    pub(super) fn member(&mut self, number: u32, block: &[u8]) {
        let added = self.0.add_original_shard(number as usize, block);
        added.expect(FITS);
    }

    /// Takes a parity block that is whole.
    pub(super) fn spare(&mut self, number: u32, block: &[u8]) {
        let added = self.0.add_recovery_shard(number as usize, block);
        added.expect(FITS);
    }

    /// Returns the members that were not added, and begins another group. There must have been as
    /// many members and spares together as the group has members.
    pub(super) fn finish(&mut self) -> Vec<(u32, Vec<u8>)> {
        let decoded = self.0.decode().expect("enough blocks were added");
        let number = |number| u32::try_from(number).expect("a group is small");
        let restored = decoded.restored_original_iter();
        restored
            .map(|(at, block)| (number(at), block.to_vec()))
            .collect()
    }
}

fn counts(layout: &ParityLayout) -> (usize, usize) {
    (layout.members() as usize, layout.spares() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_lost_of_a_group_comes_back_as_long_as_enough_is_left() {
        let mut random = fastrand::Rng::with_seed(1);
        for (blocks, percent) in [(1, 1), (2, 50), (7, 100), (40, 5), (1024, 3), (1000, 100)] {
            let len = blocks * PARITY_BLOCK_LEN as u64;
            let layout = ParityLayout::new(len, percent).expect("within limits");
            let block = |_| (0..PARITY_BLOCK_LEN).map(|_| random.u8(..)).collect();
            let members: Vec<Vec<u8>> = (0..layout.members()).map(block).collect();
            let mut encoder = Encoder::new(&layout);
            members.iter().for_each(|member| encoder.add(member));
            let spares = encoder.finish();
            let mut decoder = Decoder::new(&layout);
            for _ in 0..3 {
                let lost = random.u32(1..=layout.spares());
                let mut order: Vec<u32> = (0..layout.members()).collect();
                random.shuffle(&mut order);
                let (lost, left) = order.split_at(lost as usize);
                left.iter()
                    .for_each(|at| decoder.member(*at, &members[*at as usize]));
                let mut order: Vec<u32> = (0..layout.spares()).collect();
                random.shuffle(&mut order);
                order[..lost.len()]
                    .iter()
                    .for_each(|at| decoder.spare(*at, &spares[*at as usize]));
                let back = decoder.finish();
                let mut expected = lost.to_vec();
                expected.sort_unstable();
                assert!(back.iter().map(|(at, _)| *at).eq(expected));
                assert!(
                    back.iter()
                        .all(|(at, block)| *block == members[*at as usize])
                );
            }
        }
    }
}
