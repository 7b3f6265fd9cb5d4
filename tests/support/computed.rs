//! Large disks that take no memory.

use std::ops::Range;

use cairn_engine::extent::{Extent, ExtentStatus, push_extent};
use cairn_engine::limits::BLOCK_LEN;
use cairn_engine::source::{Source, SourceError};

/// One block in so many holds data.
pub const DATA_EVERY: u64 = 12;

/// A disk whose bytes follow from their offsets: scattered blocks, all different.
pub struct Computed {
    pub size: u64,
}

impl Source for Computed {
    fn size(&self) -> u64 {
        self.size
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        let mut extents = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = ((at / BLOCK_LEN + 1) * BLOCK_LEN).min(range.end);
            let status = match (at / BLOCK_LEN).is_multiple_of(DATA_EVERY) {
                true => ExtentStatus::Data,
                false => ExtentStatus::Zero,
            };
            push_extent(&mut extents, at, end - at, status);
            at = end;
        }
        Ok(extents)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        for (number, part) in buf.chunks_mut(1024).enumerate() {
            let at = offset / 1024 + number as u64;
            let mut random = fastrand::Rng::with_seed(at);
            // A quarter cannot be compressed, so that packs fill.
            let (noise, rest) = part.split_at_mut(part.len() / 4);
            random.fill(noise);
            rest.fill(random.u8(..));
        }
        Ok(())
    }

    fn has_unchanged(&self) -> bool {
        true
    }
}
