//! Extended attributes.

use super::inode::{Format, Inode};
use super::map::{Extent, extents};
use super::{Disk, WHAT};
use crate::guest::fields::{Fields, damaged};
use crate::guest::tree::GuestError;

const FLAG_LOCAL: u8 = 0x01;
const FLAG_ROOT: u8 = 0x02;
const FLAG_SECURE: u8 = 0x04;
/// Names of the folders that a file is in, kept as attributes: not to be seen.
const FLAG_PARENT: u8 = 0x08;
/// Being written when the machine stopped.
const FLAG_INCOMPLETE: u8 = 0x80;

/// The largest value that a file system call takes or gives.
const VALUE_MAX: usize = 64 << 10;

/// What the attributes of one file may come to here.
const SUM_MAX: usize = 16 << 20;

/// Extents of the attributes of one file that are looked at.
const EXTENTS_MAX: usize = 1 << 16;

/// Names and values, as the system calls have them.
pub(super) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Returns the extended attributes of a file.
pub(super) fn read(disk: &Disk, inode: &Inode) -> Result<Attributes, GuestError> {
    let mut reader = Reader {
        disk,
        extents: Vec::new(),
        found: Vec::new(),
        sum: 0,
    };
    let Some(fork) = &inode.attributes else {
        return Ok(reader.found);
    };
    match fork.format {
        Format::Local => reader.short(Fields::new(WHAT, &fork.bytes))?,
        Format::Extents | Format::Tree => {
            if fork.format == Format::Extents && fork.extents == 0 {
                return Ok(reader.found);
            }
            extents(disk, fork, &mut |extent| {
                reader.extents.push(extent);
                Ok(reader.extents.len() < EXTENTS_MAX)
            })?;
            reader.leaves()?;
        }
        Format::Device => return Err(damaged(WHAT, "attributes are of no known format")),
    }
    Ok(reader.found)
}

struct Reader<'d> {
    disk: &'d Disk,
    extents: Vec<Extent>,
    found: Attributes,
    sum: usize,
}

impl Reader<'_> {
    /// Reads the attributes that an inode holds itself.
    fn short(&mut self, fields: Fields<'_>) -> Result<(), GuestError> {
        let mut at: usize = 4;
        for _ in 0..fields.u8(2)? {
            let name_len = usize::from(fields.u8(at)?);
            let value_len = usize::from(fields.u8(at.saturating_add(1))?);
            let flags = fields.u8(at.saturating_add(2))?;
            let name = fields.get(at.saturating_add(3), name_len)?;
            at = at.saturating_add(3).saturating_add(name_len);
            let value = fields.get(at, value_len)?;
            at = at.saturating_add(value_len);
            self.take(flags, name, value)?;
        }
        Ok(())
    }

    /// Reads all leaves: down to the first, then from each to the next.
    fn leaves(&mut self) -> Result<(), GuestError> {
        let (header, v5) = if self.disk.geometry.v5 {
            (56, true)
        } else {
            (12, false)
        };
        let (mut number, mut descending, mut left) = (0, true, 1 << 16_u32);
        loop {
            left = u32::checked_sub(left, 1)
                .ok_or_else(|| damaged(WHAT, "the attributes of a file do not end"))?;
            let bytes = self.logical_block(number)?;
            let fields = Fields::new(WHAT, &bytes);
            match fields.be16(8)? {
                0xfebe | 0x3ebe if descending => {
                    let first = if v5 { 64 } else { 16_usize };
                    number = u64::from(fields.be32(first.saturating_add(4))?);
                }
                0xfbee | 0x3bee => {
                    descending = false;
                    self.leaf(fields, header, if v5 { 80 } else { 32 })?;
                    number = u64::from(fields.be32(0)?);
                }
                _ => return Err(damaged(WHAT, "a block of attributes makes no sense")),
            }
            if number == 0 {
                return Ok(());
            }
        }
    }

    fn leaf(&mut self, fields: Fields<'_>, count: usize, first: usize) -> Result<(), GuestError> {
        for number in 0..usize::from(fields.be16(count)?) {
            let entry = fields.from(first.saturating_add(number.saturating_mul(8)))?;
            let at = usize::from(entry.be16(4)?);
            let flags = entry.u8(6)?;
            let record = fields.from(at)?;
            if flags & FLAG_LOCAL != 0 {
                let value_len = usize::from(record.be16(0)?);
                let name_len = usize::from(record.u8(2)?);
                let name = record.get(3, name_len)?;
                let value = record.get(name_len.saturating_add(3), value_len)?;
                self.take(flags, name, value)?;
            } else if flags & FLAG_INCOMPLETE == 0 {
                let name = record.get(9, usize::from(record.u8(8)?))?;
                let len = usize::try_from(record.be32(4)?).unwrap_or(usize::MAX);
                let value = self.remote(u64::from(record.be32(0)?), len)?;
                self.take(flags, name, &value)?;
            }
        }
        Ok(())
    }

    /// Reads a value that lies in blocks of its own.
    fn remote(&self, first: u64, len: usize) -> Result<Vec<u8>, GuestError> {
        if len > VALUE_MAX {
            return Err(damaged(WHAT, "the value of an attribute is too long"));
        }
        let mut value: Vec<u8> = Vec::with_capacity(len);
        let mut number = first;
        while value.len() < len {
            let bytes = self.logical_block(number)?;
            let mut held = Fields::new(WHAT, &bytes);
            if self.disk.geometry.v5 {
                if held.get(0, 4)? != b"XARM" {
                    return Err(damaged(WHAT, "the value of an attribute makes no sense"));
                }
                held = held.from(56)?;
            }
            let want = len.saturating_sub(value.len()).min(held.bytes().len());
            value.extend_from_slice(held.get(0, want)?);
            number = number.saturating_add(1);
        }
        Ok(value)
    }

    fn logical_block(&self, number: u64) -> Result<Vec<u8>, GuestError> {
        let after = self
            .extents
            .partition_point(|extent| extent.first <= number);
        let extent = after
            .checked_sub(1)
            .and_then(|at| self.extents.get(at))
            .ok_or_else(|| damaged(WHAT, "a block of attributes is missing"))?;
        let within = number.saturating_sub(extent.first);
        if within >= extent.blocks {
            return Err(damaged(WHAT, "a block of attributes is missing"));
        }
        self.disk.block(extent.block.saturating_add(within))
    }

    fn take(&mut self, flags: u8, name: &[u8], value: &[u8]) -> Result<(), GuestError> {
        if flags & (FLAG_PARENT | FLAG_INCOMPLETE) != 0 {
            return Ok(());
        }
        self.sum = self
            .sum
            .saturating_add(name.len())
            .saturating_add(value.len());
        if self.sum > SUM_MAX || name.is_empty() || name.contains(&0) {
            return Err(damaged(WHAT, "the attributes of a file make no sense"));
        }
        let prefix: &[u8] = match flags & (FLAG_ROOT | FLAG_SECURE) {
            FLAG_ROOT => b"trusted.",
            FLAG_SECURE => b"security.",
            _ => b"user.",
        };
        let acl: Option<&[u8]> = match name {
            b"SGI_ACL_FILE" => Some(b"system.posix_acl_access"),
            b"SGI_ACL_DEFAULT" => Some(b"system.posix_acl_default"),
            _ => None,
        };
        let held = match acl {
            Some(name) if flags & FLAG_ROOT != 0 => (name.to_vec(), acl_value(value)?),
            _ => ([prefix, name].concat(), value.to_vec()),
        };
        self.found.push(held);
        Ok(())
    }
}

/// Turns an access control list into the form that the system call takes.
fn acl_value(value: &[u8]) -> Result<Vec<u8>, GuestError> {
    const VERSION: u32 = 2;
    const USER: u32 = 0x02;
    const GROUP: u32 = 0x08;
    let fields = Fields::new(WHAT, value);
    let count = usize::try_from(fields.be32(0)?).unwrap_or(usize::MAX);
    let mut out = VERSION.to_le_bytes().to_vec();
    for number in 0..count {
        let entry = fields.from(number.saturating_mul(12).saturating_add(4))?;
        let (tag, perm) = (entry.be32(0)?, entry.be16(8)?);
        let named = tag == USER || tag == GROUP;
        let id = if named { entry.be32(4)? } else { u32::MAX };
        let tag = u16::try_from(tag)
            .map_err(|_| damaged(WHAT, "an access control list makes no sense"))?;
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    Ok(out)
}
