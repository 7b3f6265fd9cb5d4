//! Where things are, by the superblock.

use std::num::NonZeroU64;

use super::WHAT;
use crate::guest::fields::{Fields, damaged};
use crate::guest::tree::GuestError;

/// What of the superblock matters to a reader.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    /// Bytes of a block.
    pub block_size: NonZeroU64,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Blocks of an allocation group.
    pub group_blocks: NonZeroU64,
    pub groups: u64,
    /// How far the numbers of the first blocks of two neighbouring groups are apart.
    pub group_stride: NonZeroU64,
    pub inode_size: usize,
    pub inodes_per_block: NonZeroU64,
    /// Bytes of a block of a folder.
    pub folder_block_size: usize,
    pub root: u64,
    /// Blocks carry headers that tell whose they are (version 5).
    pub v5: bool,
    /// Names in folders carry the kind of what they name.
    pub ftype: bool,
    /// Number of the first block of the log.
    pub log_start: u64,
}

impl Geometry {
    /// Decodes a superblock.
    pub fn decode(bytes: &[u8]) -> Result<Self, GuestError> {
        let fields = Fields::new(WHAT, bytes);
        let bad = || damaged(WHAT, "the superblock's sizes are impossible");
        let power = |log: u8, max: u8| {
            let power = 1_u64.checked_shl(u32::from(log)).filter(|_| log <= max);
            power.and_then(NonZeroU64::new).ok_or_else(bad)
        };
        let block_size = power(fields.u8(120)?, 16)?;
        let inode_size = power(fields.u8(122)?, 11)?;
        let folder_block = power(fields.u8(192)?, 7)?.checked_mul(block_size);
        let folder_block = folder_block.filter(|size| size.get() <= 64 << 10);
        let version = fields.be16(100)?;
        let v5 = version & 0xf == 5;
        let ftype = if v5 {
            fields.be32(216)? & 1 != 0
        } else {
            // The second feature word counts where the first says so.
            version & 0x8000 != 0 && fields.be32(200)? & 0x200 != 0
        };
        if block_size.get() < 512 || inode_size.get() < 256 {
            return Err(bad());
        }
        Ok(Self {
            block_size,
            blocks: fields.be64(8)?,
            group_blocks: NonZeroU64::new(u64::from(fields.be32(84)?)).ok_or_else(bad)?,
            groups: u64::from(fields.be32(88)?),
            group_stride: power(fields.u8(124)?, 32)?,
            inode_size: usize::try_from(inode_size.get()).map_err(|_| bad())?,
            inodes_per_block: NonZeroU64::new(block_size.get() / inode_size).ok_or_else(bad)?,
            folder_block_size: folder_block
                .and_then(|size| usize::try_from(size.get()).ok())
                .ok_or_else(bad)?,
            root: fields.be64(56)?,
            v5,
            ftype,
            log_start: fields.be64(48)?,
        })
    }

    /// Returns where on the volume a block is.
    pub fn block_offset(&self, block: u64) -> Result<u64, GuestError> {
        let (group, within) = (block / self.group_stride, block % self.group_stride);
        if group >= self.groups || within >= self.group_blocks.get() {
            return Err(damaged(WHAT, "a block lies outside of the file system"));
        }
        group
            .checked_mul(self.group_blocks.get())
            .and_then(|first| first.checked_add(within))
            .and_then(|block| block.checked_mul(self.block_size.get()))
            .ok_or_else(|| damaged(WHAT, "a block lies outside of the file system"))
    }

    /// Returns where on the volume an inode is.
    pub fn inode_offset(&self, inode: u64) -> Result<u64, GuestError> {
        let block = self.block_offset(inode / self.inodes_per_block)?;
        let size = self.block_size.get() / self.inodes_per_block;
        (inode % self.inodes_per_block)
            .checked_mul(size)
            .and_then(|within| block.checked_add(within))
            .ok_or_else(|| damaged(WHAT, "an inode lies outside of the file system"))
    }

    /// Returns the number of the block that holds a byte of the volume, and the byte within it.
    pub fn block_at(&self, offset: u64) -> Option<(u64, u64)> {
        let linear = offset / self.block_size;
        let (group, within) = (linear / self.group_blocks, linear % self.group_blocks);
        let first = group.checked_mul(self.group_stride.get())?;
        Some((first.checked_add(within)?, offset % self.block_size))
    }
}
