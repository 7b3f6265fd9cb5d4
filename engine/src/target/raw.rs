//! A raw sparse file: bytes at their disk offsets, holes never written.

use std::ops::Range;
use std::path::Path;

use super::partial::Partial;
use super::{Abandoned, Finished, Target, TargetError, TargetOptions, check_region};
use crate::limits::REGION_LEN;

pub(super) struct RawTarget {
    partial: Partial,
    size: u64,
}

impl RawTarget {
    pub(super) fn create(path: &Path, options: &TargetOptions) -> Result<Self, TargetError> {
        let partial = Partial::create(path, options.overwrite)?;
        partial.set_len(options.size)?;
        Ok(Self {
            partial,
            size: options.size,
        })
    }
}

impl Target for RawTarget {
    fn begin_region(&self, start: u64, data: &[Range<u64>]) -> Result<(), TargetError> {
        check_region(self.size, start, data);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let end = offset.checked_add(bytes.len() as u64);
        assert!(end.is_some_and(|end| end <= self.size), "outside the disk");
        self.partial.output().write_at(offset, bytes)
    }

    fn end_region(&self, start: u64) {
        let end = (start + REGION_LEN).min(self.size);
        self.partial.output().start_writeback(start..end);
    }

    fn finish(self: Box<Self>) -> Result<Finished, TargetError> {
        let size = self.size;
        let path = self.partial.publish()?;
        Ok(Finished { path, size })
    }

    fn abandon(self: Box<Self>) -> Abandoned {
        Abandoned::Nothing
    }
}
