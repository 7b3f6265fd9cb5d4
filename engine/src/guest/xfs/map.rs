//! Where the blocks of a fork are.

use super::inode::{Fork, Format};
use super::{Disk, WHAT};
use crate::guest::fields::{Fields, damaged};
use crate::guest::tree::GuestError;

/// A tree of extents is never deeper.
const LEVELS_MAX: u16 = 16;

/// A run of blocks of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block within the fork.
    pub first: u64,
    /// First block on the volume.
    pub block: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Allocated, but never written: reads as zeros.
    pub unwritten: bool,
}

impl Extent {
    fn decode(fields: Fields<'_>, at: usize) -> Result<Self, GuestError> {
        let record = fields.get(at, 16)?;
        let record = Fields::new(WHAT, record);
        let (high, low) = (record.be64(0)?, record.be64(8)?);
        Ok(Self {
            first: high >> 9 & 0x3f_ffff_ffff_ffff,
            block: (high & 0x1ff) << 43 | low >> 21,
            blocks: low & 0x1f_ffff,
            unwritten: high >> 63 != 0,
        })
    }
}

/// Takes extents one after the other; `false` ends.
type Sink<'s> = dyn FnMut(Extent) -> Result<bool, GuestError> + 's;

/// Hands the extents of a fork to `sink`, ascending, until it returns `false`.
///
/// Extents that do not ascend are damage; that also ends the walk of a tree that contains itself.
pub(super) fn extents(disk: &Disk, fork: &Fork, sink: &mut Sink<'_>) -> Result<(), GuestError> {
    let mut end = 0;
    let mut ascending = |extent: Extent| {
        if extent.first < end || extent.blocks == 0 {
            return Err(damaged(WHAT, "the extents of a file are out of order"));
        }
        end = extent.first.saturating_add(extent.blocks);
        sink(extent)
    };
    let fields = Fields::new(WHAT, &fork.bytes);
    match fork.format {
        Format::Extents => {
            let count = usize::try_from(fork.extents).unwrap_or(usize::MAX);
            records(fields, count, &mut ascending).map(drop)
        }
        Format::Tree => {
            let (level, count) = (fields.be16(0)?, usize::from(fields.be16(2)?));
            let root = fields.from(4)?;
            let room = root.bytes().len() / 16;
            if level > LEVELS_MAX || count > room {
                return Err(damaged(WHAT, "the extents of a file are out of order"));
            }
            children(disk, root, (level, count, room), &mut ascending).map(drop)
        }
        Format::Local | Format::Device => Err(damaged(WHAT, "a file has no extents")),
    }
}

fn records(fields: Fields<'_>, count: usize, sink: &mut Sink<'_>) -> Result<bool, GuestError> {
    for number in 0..count {
        if !sink(Extent::decode(fields, number.saturating_mul(16))?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Walks what an inner node points to. `room` keys lie before the pointers.
fn children(
    disk: &Disk,
    node: Fields<'_>,
    (level, count, room): (u16, usize, usize),
    sink: &mut Sink<'_>,
) -> Result<bool, GuestError> {
    let level = level
        .checked_sub(1)
        .ok_or_else(|| damaged(WHAT, "a tree of extents has no leaves"))?;
    let pointers = node.from(room.saturating_mul(8))?;
    for number in 0..count {
        let block = pointers.be64(number.saturating_mul(8))?;
        if !subtree(disk, block, level, sink)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn subtree(disk: &Disk, block: u64, level: u16, sink: &mut Sink<'_>) -> Result<bool, GuestError> {
    let bytes = disk.block(block)?;
    let fields = Fields::new(WHAT, &bytes);
    let (magic, header) = if disk.geometry.v5 {
        (b"BMA3", 72)
    } else {
        (b"BMAP", 24)
    };
    let count = usize::from(fields.be16(6)?);
    // A node without records could lead in circles without an extent that is out of order.
    if fields.get(0, 4)? != magic || fields.be16(4)? != level || count == 0 {
        return Err(damaged(WHAT, "a node of extents makes no sense"));
    }
    let node = fields.from(header)?;
    if level == 0 {
        return records(node, count, sink);
    }
    children(disk, node, (level, count, node.bytes().len() / 16), sink)
}

impl Disk {
    /// Reads one block.
    pub(super) fn block(&self, block: u64) -> Result<Vec<u8>, GuestError> {
        let size = usize::try_from(self.geometry.block_size.get()).unwrap_or_default();
        self.blocks(block, 0, size)
    }

    /// Reads `len` bytes from `offset` on of blocks that follow one another.
    pub(super) fn blocks(
        &self,
        block: u64,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, GuestError> {
        let start = self.geometry.block_offset(block)?.saturating_add(offset);
        let mut bytes = vec![0; len];
        self.volume.read_at(start, &mut bytes)?;
        Ok(bytes)
    }
}
