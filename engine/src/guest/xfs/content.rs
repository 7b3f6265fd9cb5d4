//! The content of files and of symbolic links.

use std::io;

use super::inode::{Format, Inode};
use super::map::extents;
use super::{Disk, WHAT};
use crate::guest::fields::{Fields, damaged};
use crate::guest::tree::GuestError;

/// What is handed out at once.
const RUN_LEN: u64 = 1 << 20;

/// The longest target of a symbolic link.
const LINK_MAX: usize = 1024;

/// Hands the content of a file to `sink`, without its holes.
pub(super) fn read(
    disk: &Disk,
    file: &Inode,
    sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> Result<(), GuestError> {
    let block_size = disk.geometry.block_size.get();
    let mut run = Vec::new();
    extents(disk, &file.data, &mut |extent| {
        let start = extent.first.saturating_mul(block_size);
        let end = extent
            .blocks
            .saturating_mul(block_size)
            .saturating_add(start);
        let end = end.min(file.size);
        if start >= end || extent.unwritten {
            return Ok(start < file.size);
        }
        let beneath = disk.geometry.block_offset(extent.block)?;
        let mut at = start;
        while at < end {
            let len = end.saturating_sub(at).min(RUN_LEN);
            run.resize(usize::try_from(len).unwrap_or_default(), 0);
            let within = at.saturating_sub(start);
            disk.volume
                .read_at(beneath.saturating_add(within), &mut run)?;
            sink(at, &run)?;
            at = at.saturating_add(len);
        }
        Ok(true)
    })
}

/// Returns where a symbolic link points.
pub(super) fn read_link(disk: &Disk, link: &Inode) -> Result<Vec<u8>, GuestError> {
    let len = usize::try_from(link.size).unwrap_or(usize::MAX);
    if len > LINK_MAX {
        return Err(damaged(WHAT, "the target of a symbolic link is too long"));
    }
    if link.data.format == Format::Local {
        return Ok(Fields::new(WHAT, &link.data.bytes).get(0, len)?.to_vec());
    }
    let header = if disk.geometry.v5 { 56 } else { 0 };
    let mut target: Vec<u8> = Vec::with_capacity(len);
    extents(disk, &link.data, &mut |extent| {
        // One header stands before the blocks of each extent.
        let held = extent.blocks.saturating_mul(disk.geometry.block_size.get());
        let held = usize::try_from(held).unwrap_or(usize::MAX);
        let want = len.saturating_sub(target.len());
        let bytes = disk.blocks(extent.block, 0, held.min(want.saturating_add(header)))?;
        target.extend_from_slice(Fields::new(WHAT, &bytes).from(header)?.bytes());
        Ok(target.len() < len)
    })?;
    if target.len() != len {
        return Err(damaged(WHAT, "the target of a symbolic link is cut short"));
    }
    Ok(target)
}
