//! Folders: lists of names in blocks. An index by hash, where there is one, lies in entries that
//! look empty, so that reading the blocks from the first to the last finds every name.

use super::super::fields::{le16, le32};
use super::super::tree::{DirEntry, FileId, FileKind, GuestError};
use super::blocks::Blocks;
use super::inode::Inode;
use super::{attributes, damaged, map, need, unsupported};

/// What an entry has before its name.
const HEADER_LEN: usize = 8;
/// An inline folder begins with the number of the folder above.
const INLINE_HEADER_LEN: usize = 4;

type Sink<'a> = &'a mut dyn FnMut(DirEntry) -> bool;

/// Hands a folder's entries to `sink` until it returns `false`.
pub(super) fn read(blocks: &Blocks, folder: &Inode, sink: Sink<'_>) -> Result<(), GuestError> {
    if folder.kind()? != FileKind::Folder {
        return Err(GuestError::NotAFolder);
    }
    if folder.is_encrypted() {
        return Err(unsupported("encryption of this folder's names"));
    }
    if folder.is_inline() {
        return read_inline(blocks, folder, sink);
    }
    let block_len = blocks.superblock.block_len;
    let end = folder.size().div_ceil(block_len);
    map::for_each_run(blocks, folder, &mut |run| {
        let mut index = 0;
        while index < run.count && run.logical.saturating_add(index) < end {
            let block = blocks.read_block(run.physical.saturating_add(index))?;
            if !read_entries(&block, sink)? {
                return Ok(false);
            }
            index = index.saturating_add(1);
        }
        Ok(true)
    })
}

/// The inode's map holds the first entries, an attribute the rest. Neither runs into the other.
fn read_inline(blocks: &Blocks, folder: &Inode, sink: Sink<'_>) -> Result<(), GuestError> {
    let bytes = attributes::inline_content(blocks, folder)?;
    let (first, rest) = bytes.split_at(bytes.len().min(folder.map()?.len()));
    let goes_on = read_entries(first.get(INLINE_HEADER_LEN..).unwrap_or_default(), sink)?;
    if goes_on && !rest.is_empty() {
        read_entries(rest, sink)?;
    }
    Ok(())
}

/// Returns whether to go on.
fn read_entries(block: &[u8], sink: Sink<'_>) -> Result<bool, GuestError> {
    let mut rest = block;
    while rest.len() >= HEADER_LEN {
        let inode = need(le32(rest, 0))?;
        let len = match usize::from(need(le16(rest, 4))?) {
            // 64 KiB do not fit.
            0 | 0xffff if block.len() > 0xffff => block.len(),
            len => len,
        };
        let (Some(entry), Some(later)) = (rest.get(..len), rest.get(len..)) else {
            return Err(damaged("an entry of a folder runs beyond its block"));
        };
        if len < HEADER_LEN {
            return Err(damaged("an entry of a folder is too short"));
        }
        rest = later;
        if inode == 0 {
            continue;
        }
        let name_len = usize::from(*need(entry.get(6))?);
        let name = entry
            .get(HEADER_LEN..)
            .and_then(|rest| rest.get(..name_len));
        let name = name.ok_or_else(|| damaged("a name runs beyond its entry"))?;
        if name == b"." || name == b".." {
            continue;
        }
        if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(damaged("a folder holds a name that cannot be one"));
        }
        let found = DirEntry {
            name: name.to_vec(),
            id: FileId(u64::from(inode)),
        };
        if !sink(found) {
            return Ok(false);
        }
    }
    Ok(true)
}
