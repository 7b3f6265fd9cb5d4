//! Small documents that are stored like disks.

use std::ops::Range;

use super::{Source, SourceError};
use crate::extent::{Extent, ExtentStatus};

/// Bytes in memory.
#[derive(Debug, Clone)]
pub struct MemorySource(Vec<u8>);

impl MemorySource {
    /// Takes the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Source for MemorySource {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        assert!(range.end <= self.size(), "the range lies within the bytes");
        let len = range.end.saturating_sub(range.start);
        let extent = Extent {
            offset: range.start,
            len,
            status: ExtentStatus::Data,
        };
        Ok(if len == 0 { Vec::new() } else { vec![extent] })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(offset).expect("offsets lie within memory");
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }

    fn has_unchanged(&self) -> bool {
        true
    }
}
