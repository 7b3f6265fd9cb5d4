//! The blocks of the file system, with what the journal lays over them.

use std::collections::BTreeMap;

use super::super::tree::GuestError;
use super::super::volume::SharedVolume;
use super::damaged;
use super::superblock::Superblock;

/// A block that the journal holds a newer version of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newer {
    /// The block that holds it.
    pub block: u64,
    /// Whether its first four bytes were put aside because they looked like the journal's own.
    pub is_escaped: bool,
}

/// The file system's blocks.
pub(super) struct Blocks {
    volume: SharedVolume,
    pub superblock: Superblock,
    /// Blocks as the journal has them.
    overlay: BTreeMap<u64, Newer>,
}

impl Blocks {
    /// Takes a volume, with nothing laid over it yet.
    pub fn new(volume: SharedVolume, superblock: Superblock) -> Self {
        Self {
            volume,
            superblock,
            overlay: BTreeMap::new(),
        }
    }

    /// Lays the journal's blocks over the volume's.
    pub fn lay_over(&mut self, overlay: BTreeMap<u64, Newer>) -> Result<(), GuestError> {
        self.overlay = overlay;
        let mut bytes = vec![0; 1024];
        self.read(1024, &mut bytes)?;
        self.superblock = Superblock::decode(&bytes)?;
        Ok(())
    }

    /// Reads bytes at an offset of the file system.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        let block_len = self.superblock.block_len;
        let end = u64::try_from(buf.len()).ok();
        let end = end.and_then(|len| offset.checked_add(len));
        let limit = self.superblock.block_count.saturating_mul(block_len);
        let end = end.filter(|end| *end <= limit);
        let end = end.ok_or_else(|| damaged("something points beyond its end"))?;
        self.volume.read_at(offset, buf)?;
        if self.overlay.is_empty() {
            return Ok(());
        }
        let first = offset.checked_div(block_len).unwrap_or_default();
        let last = end.div_ceil(block_len);
        for (block, newer) in self.overlay.range(first..last) {
            let start = block.saturating_mul(block_len);
            // The part of the block that is wanted, as offsets of the file system.
            let from = start.max(offset);
            let to = start.saturating_add(block_len).min(end);
            let place = usize::try_from(from.saturating_sub(offset)).unwrap_or(usize::MAX);
            let len = usize::try_from(to.saturating_sub(from)).unwrap_or_default();
            let wanted = buf.get_mut(place..).and_then(|rest| rest.get_mut(..len));
            let wanted = wanted.ok_or_else(|| damaged("a block has no place"))?;
            self.read_newer(*newer, from.saturating_sub(start), wanted)?;
        }
        Ok(())
    }

    fn read_newer(&self, newer: Newer, within: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        let start = newer.block.saturating_mul(self.superblock.block_len);
        self.volume.read_at(start.saturating_add(within), buf)?;
        if newer.is_escaped {
            let skip = usize::try_from(within).unwrap_or(usize::MAX);
            let magic = super::journal::MAGIC.to_be_bytes();
            for (to, from) in buf.iter_mut().zip(magic.iter().skip(skip)) {
                *to = *from;
            }
        }
        Ok(())
    }

    /// Reads a whole block.
    pub fn read_block(&self, block: u64) -> Result<Vec<u8>, GuestError> {
        let len = usize::try_from(self.superblock.block_len);
        let mut bytes = vec![0; len.map_err(|_| damaged("a block is too long"))?];
        let start = block.checked_mul(self.superblock.block_len);
        self.read(start.unwrap_or(u64::MAX), &mut bytes)?;
        Ok(bytes)
    }
}
