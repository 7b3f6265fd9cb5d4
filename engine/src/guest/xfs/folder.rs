//! Folders.

use super::inode::{Format, Inode};
use super::map::extents;
use super::{Disk, WHAT};
use crate::guest::fields::{Fields, check_name, damaged};
use crate::guest::tree::{DirEntry, FileId, GuestError};

/// What lies from here on in a folder is its index, not its names.
const INDEX_OFFSET: u64 = 32 << 30;

type Sink<'s> = dyn FnMut(DirEntry) -> bool + 's;

/// Hands the names of a folder to `sink` until it returns `false`.
pub(super) fn read(disk: &Disk, folder: &Inode, sink: &mut Sink<'_>) -> Result<(), GuestError> {
    if folder.data.format == Format::Local {
        return short(disk, folder, sink).map(drop);
    }
    let block_size = disk.geometry.block_size;
    let whole = disk.geometry.folder_block_size;
    let mut pending: Vec<u8> = Vec::with_capacity(whole);
    let mut left = disk.geometry.blocks;
    extents(disk, &folder.data, &mut |extent| {
        for number in 0..extent.blocks {
            let offset = extent.first.saturating_add(number);
            if offset.saturating_mul(block_size.get()) >= INDEX_OFFSET {
                return Ok(false);
            }
            // No folder has more blocks than there are; one that names some twice would not end.
            left = left
                .checked_sub(1)
                .ok_or_else(|| damaged(WHAT, "a folder is larger than the file system"))?;
            pending.extend(disk.block(extent.block.saturating_add(number))?);
            if pending.len() >= whole {
                if !block(disk, &pending, sink)? {
                    return Ok(false);
                }
                pending.clear();
            }
        }
        Ok(true)
    })
}

/// Reads the names that an inode holds itself.
fn short(disk: &Disk, folder: &Inode, sink: &mut Sink<'_>) -> Result<bool, GuestError> {
    let size = usize::try_from(folder.size).unwrap_or(usize::MAX);
    let fields = Fields::new(WHAT, &folder.data.bytes);
    let fields = Fields::new(WHAT, fields.get(0, size)?);
    let (count, wide) = (fields.u8(0)?, fields.u8(1)? != 0);
    let number_len: usize = if wide { 8 } else { 4 };
    let mut at = number_len.saturating_add(2);
    for _ in 0..count {
        let len = usize::from(fields.u8(at)?);
        let name = fields.get(at.saturating_add(3), len)?;
        at = at.saturating_add(3).saturating_add(len);
        at = at.saturating_add(usize::from(disk.geometry.ftype));
        let number = if wide {
            fields.be64(at)?
        } else {
            u64::from(fields.be32(at)?)
        };
        at = at.saturating_add(number_len);
        if !hand_on(name, number, sink)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads the names of a block of a folder.
fn block(disk: &Disk, bytes: &[u8], sink: &mut Sink<'_>) -> Result<bool, GuestError> {
    let fields = Fields::new(WHAT, bytes);
    let (start, end) = match fields.get(0, 4)? {
        b"XDD3" => (64, bytes.len()),
        b"XDB3" => (64, single_block_end(fields)?),
        b"XD2D" => (16, bytes.len()),
        b"XD2B" => (16, single_block_end(fields)?),
        _ => return Err(damaged(WHAT, "a block of a folder makes no sense")),
    };
    let fields = Fields::new(WHAT, fields.get(0, end)?);
    let mut at: usize = start;
    while at < end {
        if fields.be16(at)? == 0xffff {
            let len = usize::from(fields.be16(at.saturating_add(2))?);
            if len == 0 {
                return Err(damaged(WHAT, "a block of a folder makes no sense"));
            }
            at = at.saturating_add(len);
            continue;
        }
        let number = fields.be64(at)?;
        let len = usize::from(fields.u8(at.saturating_add(8))?);
        let name = fields.get(at.saturating_add(9), len)?;
        if !hand_on(name, number, sink)? {
            return Ok(false);
        }
        let used = len
            .saturating_add(11)
            .saturating_add(usize::from(disk.geometry.ftype));
        at = at.saturating_add(used.next_multiple_of(8));
    }
    Ok(true)
}

/// Where the names end in a folder of a single block: its index follows.
fn single_block_end(fields: Fields<'_>) -> Result<usize, GuestError> {
    let tail = fields.bytes().len().saturating_sub(8);
    let count = usize::try_from(fields.be32(tail)?).unwrap_or(usize::MAX);
    tail.checked_sub(count.saturating_mul(8))
        .ok_or_else(|| damaged(WHAT, "the index of a folder makes no sense"))
}

fn hand_on(name: &[u8], number: u64, sink: &mut Sink<'_>) -> Result<bool, GuestError> {
    if name == b"." || name == b".." {
        return Ok(true);
    }
    check_name(WHAT, name)?;
    Ok(sink(DirEntry {
        name: name.to_vec(),
        id: FileId(number),
    }))
}
