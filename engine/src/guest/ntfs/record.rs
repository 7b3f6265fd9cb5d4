//! Records of the master file table, and the attributes that they hold.

use super::WHAT;
use crate::guest::fields::{Fields, damaged};
use crate::guest::tree::GuestError;

/// Every so many bytes the last two stand in the update sequence instead.
const SECTOR_SIZE: usize = 512;

/// Kinds of attributes.
pub(super) mod kind {
    pub const INFORMATION: u32 = 0x10;
    pub const LIST: u32 = 0x20;
    pub const FILE_NAME: u32 = 0x30;
    pub const VOLUME_INFORMATION: u32 = 0x70;
    pub const DATA: u32 = 0x80;
    pub const INDEX_ROOT: u32 = 0x90;
    pub const INDEX_ALLOCATION: u32 = 0xa0;
    pub const BITMAP: u32 = 0xb0;
    pub const REPARSE_POINT: u32 = 0xc0;
    pub const END: u32 = 0xffff_ffff;
}

/// Clusters that follow one another; `None` where none are allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub cluster: Option<u64>,
    pub clusters: u64,
}

/// The value of an attribute.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// The bytes themselves.
    Resident(Vec<u8>),
    /// Where they are. An attribute that lies in several records has several of these.
    Runs {
        /// First cluster of the value that this part has.
        first: u64,
        runs: Vec<Run>,
        /// Length, where `first` is 0.
        size: u64,
        /// What lies behind reads as zeros.
        initialized: u64,
        /// Clusters that are compressed together; 0 where none are.
        unit_clusters: u64,
    },
}

/// An attribute, or a part of one.
#[derive(Debug, Clone)]
pub(super) struct Attribute {
    pub kind: u32,
    /// In UTF-16, as it stands.
    pub name: Vec<u8>,
    pub flags: u16,
    pub value: Value,
}

impl Attribute {
    pub const COMPRESSED: u16 = 0x00ff;
    pub const ENCRYPTED: u16 = 0x4000;
}

/// A record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub sequence: u16,
    pub folder: bool,
    /// The record that this one continues; 0 where it is a file's first.
    pub base: u64,
    pub attributes: Vec<Attribute>,
}

impl Record {
    /// Decodes a record.
    pub fn decode(bytes: &mut [u8]) -> Result<Self, GuestError> {
        put_back_sector_ends(bytes, b"FILE")?;
        let fields = Fields::new(WHAT, bytes);
        let flags = fields.le16(22)?;
        if flags & 1 == 0 {
            return Err(damaged(WHAT, "a file has been deleted"));
        }
        let mut attributes = Vec::new();
        let mut rest = fields.from(usize::from(fields.le16(20)?))?;
        loop {
            let kind = rest.le32(0)?;
            if kind == kind::END {
                break;
            }
            let len = usize::try_from(rest.le32(4)?).unwrap_or(usize::MAX);
            if len < 24 {
                return Err(damaged(WHAT, "an attribute makes no sense"));
            }
            attributes.push(attribute(kind, Fields::new(WHAT, rest.get(0, len)?))?);
            rest = rest.from(len)?;
        }
        Ok(Self {
            sequence: fields.le16(16)?,
            folder: flags & 2 != 0,
            base: fields.le64(32)?,
            attributes,
        })
    }
}

/// Checks a record of several sectors and puts back what was at the ends of these.
pub(super) fn put_back_sector_ends(bytes: &mut [u8], magic: &[u8]) -> Result<(), GuestError> {
    let fields = Fields::new(WHAT, bytes);
    if fields.get(0, 4)? != magic {
        return Err(damaged(WHAT, "a record is missing"));
    }
    let at = usize::from(fields.le16(4)?);
    let count = usize::from(fields.le16(6)?).saturating_sub(1);
    if count > bytes.len() / SECTOR_SIZE {
        return Err(damaged(WHAT, "a record makes no sense"));
    }
    let number = fields.get(at, 2)?.to_vec();
    let ends = fields
        .get(at.saturating_add(2), count.saturating_mul(2))?
        .to_vec();
    for (sector, end) in bytes
        .chunks_exact_mut(SECTOR_SIZE)
        .zip(ends.chunks_exact(2))
    {
        let stands = sector.get_mut(SECTOR_SIZE - 2..).unwrap_or_default();
        if stands != number {
            return Err(damaged(WHAT, "a record was written in part"));
        }
        stands.copy_from_slice(end);
    }
    Ok(())
}

fn attribute(kind: u32, fields: Fields<'_>) -> Result<Attribute, GuestError> {
    let name_len = usize::from(fields.u8(9)?).saturating_mul(2);
    let name = fields
        .get(usize::from(fields.le16(10)?), name_len)?
        .to_vec();
    let value = if fields.u8(8)? == 0 {
        let len = usize::try_from(fields.le32(16)?).unwrap_or(usize::MAX);
        let bytes = fields.get(usize::from(fields.le16(20)?), len)?;
        Value::Resident(bytes.to_vec())
    } else {
        let first = fields.le64(16)?;
        let (size, initialized) = if first == 0 {
            (fields.le64(48)?, fields.le64(56)?)
        } else {
            (0, 0)
        };
        let unit = fields.u8(34)?;
        Value::Runs {
            first,
            runs: runs(fields.from(usize::from(fields.le16(32)?))?)?,
            size,
            initialized,
            unit_clusters: match unit {
                0 => 0,
                1..=8 => 1_u64.checked_shl(u32::from(unit)).unwrap_or_default(),
                _ => return Err(damaged(WHAT, "an attribute makes no sense")),
            },
        }
    };
    Ok(Attribute {
        kind,
        name,
        flags: fields.le16(12)?,
        value,
    })
}

/// Decodes runs: each has its length, and how far it is from the one before.
fn runs(mut fields: Fields<'_>) -> Result<Vec<Run>, GuestError> {
    let bad = || damaged(WHAT, "the runs of an attribute make no sense");
    let mut runs = Vec::new();
    let mut cluster: i64 = 0;
    while let Some(head) = fields.bytes().first().copied().filter(|head| *head != 0) {
        let (len_len, step_len) = (usize::from(head & 0xf), usize::from(head >> 4));
        let clusters = signed(fields.get(1, len_len)?).ok_or_else(bad)?;
        let clusters = u64::try_from(clusters).ok().filter(|len| *len > 0);
        let at = len_len.saturating_add(1);
        let step = signed(fields.get(at, step_len)?).ok_or_else(bad)?;
        cluster = cluster.checked_add(step).ok_or_else(bad)?;
        let place = if step_len == 0 {
            None
        } else {
            Some(u64::try_from(cluster).map_err(|_| bad())?)
        };
        runs.push(Run {
            cluster: place,
            clusters: clusters.ok_or_else(bad)?,
        });
        fields = fields.from(at.saturating_add(step_len))?;
    }
    Ok(runs)
}

/// Returns a number of 0 to 8 bytes, the least significant first, the highest bit being the sign.
fn signed(bytes: &[u8]) -> Option<i64> {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}
