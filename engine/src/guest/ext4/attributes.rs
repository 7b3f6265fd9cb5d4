//! Extended attributes, in inodes, in blocks and in inodes of their own; and the content of files
//! so short that it is kept among them.

use super::super::fields::{le16, le32};
use super::super::tree::{GuestError, Xattr};
use super::blocks::Blocks;
use super::inode::Inode;
use super::{content, damaged, need};

const MAGIC: u32 = 0xea02_0000;
/// What a block of attributes begins with.
const BLOCK_HEADER_LEN: usize = 32;
const ENTRY_LEN: usize = 16;
/// The kernel's limit of a value.
const VALUE_LEN_MAX: u64 = 65536;

const INDEX_SYSTEM: u8 = 7;
const INLINE_NAME: &[u8] = b"data";

/// An attribute as it lies on the disk.
struct Raw<'a> {
    index: u8,
    name: &'a [u8],
    /// Inode that holds the value, or 0.
    inode: u32,
    start: usize,
    len: usize,
}

/// Returns the attributes of a file by their full names.
pub(super) fn read(blocks: &Blocks, inode: &Inode) -> Result<Vec<Xattr>, GuestError> {
    let mut found = Vec::new();
    for_each(blocks, inode, &mut |raw, values| {
        if let Some((name, value)) = named(blocks, &raw, values)? {
            found.push((name, value));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Returns the content of a file that is kept in its inode: first where the map would be, then in
/// an attribute.
pub(super) fn inline_content(blocks: &Blocks, inode: &Inode) -> Result<Vec<u8>, GuestError> {
    let mut bytes = inode.map()?.to_vec();
    for_each(blocks, inode, &mut |raw, values| {
        if raw.index == INDEX_SYSTEM && raw.name == INLINE_NAME {
            bytes.extend(value(blocks, &raw, values)?);
        }
        Ok(())
    })?;
    let size = usize::try_from(inode.size()).unwrap_or(usize::MAX);
    if size > bytes.len() {
        return Err(damaged("a short file is longer than its content"));
    }
    bytes.truncate(size);
    Ok(bytes)
}

type Visit<'a> = &'a mut dyn FnMut(Raw<'_>, &[u8]) -> Result<(), GuestError>;

/// Hands every attribute on, with the bytes that its value is found in.
fn for_each(blocks: &Blocks, inode: &Inode, visit: Visit<'_>) -> Result<(), GuestError> {
    if let Some(area) = inode.attributes()
        && le32(area, 0) == Some(MAGIC)
    {
        let area = need(area.get(4..))?;
        entries(area, area, visit)?;
    }
    let Some(block) = inode.attribute_block()? else {
        return Ok(());
    };
    let block = blocks.read_block(block)?;
    if le32(&block, 0) != Some(MAGIC) {
        return Err(damaged("a block of attributes has no magic number"));
    }
    entries(need(block.get(BLOCK_HEADER_LEN..))?, &block, visit)
}

fn entries(list: &[u8], values: &[u8], visit: Visit<'_>) -> Result<(), GuestError> {
    let mut rest = list;
    // Four zero bytes end the list, where it does not fill its place.
    while le32(rest, 0).is_some_and(|word| word != 0) {
        let name_len = usize::from(*need(rest.first())?);
        let end = ENTRY_LEN.saturating_add(name_len);
        let raw = Raw {
            index: *need(rest.get(1))?,
            name: need(rest.get(ENTRY_LEN..end))?,
            start: usize::from(need(le16(rest, 2))?),
            inode: need(le32(rest, 4))?,
            len: usize::try_from(need(le32(rest, 8))?).unwrap_or(usize::MAX),
        };
        visit(raw, values)?;
        rest = rest.get(end.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

fn value(blocks: &Blocks, raw: &Raw<'_>, values: &[u8]) -> Result<Vec<u8>, GuestError> {
    if raw.inode == 0 {
        let value = values.get(raw.start..).and_then(|rest| rest.get(..raw.len));
        let value = value.ok_or_else(|| damaged("an attribute runs beyond its place"))?;
        return Ok(value.to_vec());
    }
    let holder = Inode::read(blocks, u64::from(raw.inode))?;
    if u64::try_from(raw.len).is_ok_and(|len| len != holder.size()) {
        return Err(damaged("an attribute and its inode differ in length"));
    }
    if holder.size() > VALUE_LEN_MAX || holder.is_inline() {
        return Err(damaged("an attribute is too long"));
    }
    content(blocks, &holder, VALUE_LEN_MAX)
}

/// Returns an attribute as the system call has it, or nothing for what is not for users.
fn named(blocks: &Blocks, raw: &Raw<'_>, values: &[u8]) -> Result<Option<Xattr>, GuestError> {
    let prefix: &[u8] = match raw.index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        INDEX_SYSTEM if raw.name != INLINE_NAME => b"system.",
        8 => b"system.richacl",
        _ => return Ok(None),
    };
    let value = value(blocks, raw, values)?;
    let value = match raw.index {
        2 | 3 => acl(&value)?,
        _ => value,
    };
    Ok(Some(([prefix, raw.name].concat(), value)))
}

/// Turns an access control list from the form on the disk to that of the system call, whose
/// entries all have an id.
fn acl(disk: &[u8]) -> Result<Vec<u8>, GuestError> {
    const VERSION_ON_DISK: u32 = 1;
    const VERSION: u32 = 2;
    const NO_ID: u32 = u32::MAX;
    /// Entries of a named user and of a named group.
    const WITH_ID: [u16; 2] = [0x2, 0x8];
    if le32(disk, 0) != Some(VERSION_ON_DISK) {
        return Err(damaged("an access control list has no known version"));
    }
    let mut list = VERSION.to_le_bytes().to_vec();
    let mut rest = disk.get(4..).unwrap_or_default();
    while !rest.is_empty() {
        let tag = need(le16(rest, 0))?;
        let permissions = need(le16(rest, 2))?;
        let (id, len) = match WITH_ID.contains(&tag) {
            true => (need(le32(rest, 4))?, 8),
            false => (NO_ID, 4),
        };
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(list)
}
