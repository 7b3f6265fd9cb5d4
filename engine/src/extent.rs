//! Extents: runs of disk bytes with one status.

use std::ops::Range;

/// What a source knows of a run of disk bytes without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentStatus {
    /// May hold anything; must be read.
    Data,
    /// Reads as zeros; need not be read.
    Zero,
    /// Equal to the parent's bytes at the same place (dirty bitmaps and deltas only).
    Unchanged,
}

/// A run of disk bytes with one status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Disk offset of the first byte.
    pub offset: u64,
    /// Length in bytes; never zero.
    pub len: u64,
    /// What is known of the bytes.
    pub status: ExtentStatus,
}

impl Extent {
    /// Returns the disk bytes covered.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }
}

/// Appends an extent to a list in disk order, joining it to the last one where status and place
/// agree.
pub fn push_extent(extents: &mut Vec<Extent>, offset: u64, len: u64, status: ExtentStatus) {
    if len == 0 {
        return;
    }
    if let Some(last) = extents.last_mut()
        && last.status == status
        && last.offset + last.len == offset
    {
        last.len += len;
        return;
    }
    extents.push(Extent {
        offset,
        len,
        status,
    });
}
