//! Folders: indexes of names.

use super::file::{File, text};
use super::record::{kind, put_back_sector_ends};
use super::stream::Stream;
use super::{Disk, WHAT};
use crate::guest::fields::{Fields, check_name, damaged};
use crate::guest::tree::{DirEntry, FileId, GuestError};

/// The name of the index of names, in UTF-16.
const INDEX_NAME: &[u8] = b"$\0I\x003\x000\0";

const FLAG_LAST: u16 = 2;
const DOS_NAMES: u8 = 2;

/// Records below this one are the system's own files, but for the top folder.
const SYSTEM_RECORDS: u64 = 24;

/// The largest map of the blocks in use that a folder has: 128 Mi blocks.
const BITMAP_MAX: u64 = 16 << 20;

type Sink<'s> = dyn FnMut(DirEntry) -> bool + 's;

/// Hands the names of a folder to `sink` until it returns `false`. The order of the index does not
/// matter, so its blocks are read one after the other: no tree that contains itself is followed.
pub(super) fn read(disk: &Disk, folder: &File, sink: &mut Sink<'_>) -> Result<(), GuestError> {
    let missing = || damaged(WHAT, "a folder has no index");
    let root = Stream::find(&folder.attributes, kind::INDEX_ROOT, INDEX_NAME)?;
    let root = root.ok_or_else(missing)?.read_whole(disk, 64 << 10)?;
    let root = Fields::new(WHAT, &root);
    if !entries(root.from(16)?, sink)? {
        return Ok(());
    }
    let blocks = Stream::find(&folder.attributes, kind::INDEX_ALLOCATION, INDEX_NAME)?;
    let Some(blocks) = blocks else {
        return Ok(());
    };
    let used = Stream::find(&folder.attributes, kind::BITMAP, INDEX_NAME)?;
    let used = used.ok_or_else(missing)?.read_whole(disk, BITMAP_MAX)?;
    let size = root.le32(8)?;
    if !size.is_power_of_two() || !(512..=65536).contains(&size) {
        return Err(damaged(WHAT, "the index of a folder makes no sense"));
    }
    let mut block = vec![0; usize::try_from(size).unwrap_or_default()];
    let count = blocks
        .size()
        .checked_div(u64::from(size))
        .unwrap_or_default();
    let mapped = u64::try_from(used.len())
        .unwrap_or(u64::MAX)
        .saturating_mul(8);
    for number in 0..count.min(mapped) {
        let byte = usize::try_from(number / 8).unwrap_or(usize::MAX);
        let bit = u32::try_from(number % 8).unwrap_or_default();
        let bits = used.get(byte).copied().unwrap_or_default();
        if bits.checked_shr(bit).unwrap_or_default() & 1 == 0 {
            continue;
        }
        blocks.read_at(disk, number.saturating_mul(u64::from(size)), &mut block)?;
        put_back_sector_ends(&mut block, b"INDX")?;
        if !entries(Fields::new(WHAT, &block).from(24)?, sink)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the entries behind a header.
fn entries(header: Fields<'_>, sink: &mut Sink<'_>) -> Result<bool, GuestError> {
    let first = usize::try_from(header.le32(0)?).unwrap_or(usize::MAX);
    let mut rest = header.from(first)?;
    loop {
        let len = usize::from(rest.le16(8)?);
        if rest.le16(12)? & FLAG_LAST != 0 {
            return Ok(true);
        }
        if len < 16 {
            return Err(damaged(WHAT, "the index of a folder makes no sense"));
        }
        let entry = Fields::new(WHAT, rest.get(0, len)?);
        let name_len = usize::from(entry.u8(80)?).saturating_mul(2);
        let number = entry.le64(0)? & Disk::NUMBER_MASK;
        if entry.u8(81)? != DOS_NAMES && number >= SYSTEM_RECORDS {
            let name = text(entry.get(82, name_len)?);
            check_name(WHAT, &name)?;
            let id = FileId(entry.le64(0)?);
            if name != b"." && name != b".." && !sink(DirEntry { name, id }) {
                return Ok(false);
            }
        }
        rest = rest.from(len)?;
    }
}
