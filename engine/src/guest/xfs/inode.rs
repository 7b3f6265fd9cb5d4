//! Inodes: what is known of a file, and where its two forks are.

use super::geometry::Geometry;
use super::{Disk, WHAT};
use crate::guest::fields::{Fields, damaged, time};
use crate::guest::tree::{FileKind, FileTime, GuestError, Stat};

const FLAG_BIGTIME: u64 = 1 << 3;
const FLAG_LARGE_COUNTS: u64 = 1 << 4;

/// How a fork keeps what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// The number of a device.
    Device,
    /// The bytes themselves.
    Local,
    /// A list of extents.
    Extents,
    /// The root of a tree of extents.
    Tree,
}

/// One of the two forks of an inode: content, or extended attributes.
#[derive(Debug, Clone)]
pub(super) struct Fork {
    pub format: Format,
    pub extents: u64,
    pub bytes: Vec<u8>,
}

/// An inode.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub size: u64,
    pub data: Fork,
    /// `None` where there is no such fork.
    pub attributes: Option<Fork>,
    mode: u16,
    owner: (u32, u32),
    links: u32,
    accessed: FileTime,
    modified: FileTime,
}

impl Inode {
    /// Reads an inode by its number.
    pub fn read(disk: &Disk, number: u64) -> Result<Self, GuestError> {
        let mut bytes = vec![0; disk.geometry.inode_size];
        let offset = disk.geometry.inode_offset(number)?;
        disk.volume.read_at(offset, &mut bytes)?;
        Self::decode(&disk.geometry, number, &bytes)
    }

    fn decode(geometry: &Geometry, number: u64, bytes: &[u8]) -> Result<Self, GuestError> {
        let fields = Fields::new(WHAT, bytes);
        let (mode, version) = (fields.be16(2)?, fields.u8(4)?);
        if fields.get(0, 2)? != b"IN" || !matches!(version, 1..=3) || mode == 0 {
            return Err(damaged(WHAT, "there is no inode where one should be"));
        }
        let large = version == 3 && geometry.v5;
        if large && fields.be64(152)? != number {
            return Err(damaged(WHAT, "an inode belongs elsewhere"));
        }
        let flags = if large { fields.be64(120)? } else { 0 };
        let at_time = |at: usize| -> Result<FileTime, GuestError> {
            let word = fields.be64(at)?;
            Ok(if flags & FLAG_BIGTIME != 0 {
                big_time(word)
            } else {
                small_time(word)
            })
        };
        let links = if version == 1 {
            u32::from(fields.be16(6)?)
        } else {
            fields.be32(16)?
        };
        let (data, attributes) = forks(fields, if large { 176 } else { 100 }, flags)?;
        Ok(Self {
            size: fields.be64(56)?,
            data,
            attributes,
            mode,
            owner: (fields.be32(8)?, fields.be32(12)?),
            links,
            accessed: at_time(32)?,
            modified: at_time(40)?,
        })
    }

    /// Returns what is known of the file.
    pub fn stat(&self) -> Result<Stat, GuestError> {
        Ok(Stat {
            kind: self.kind()?,
            mode: Some(self.mode & 0o7777),
            owner: Some(self.owner),
            size: self.size,
            links: self.links,
            modified: self.modified,
            accessed: Some(self.accessed),
        })
    }

    /// Returns what the file is.
    pub fn kind(&self) -> Result<FileKind, GuestError> {
        Ok(match self.mode >> 12 {
            0o01 => FileKind::Fifo,
            0o02 => FileKind::CharDevice(self.device()?),
            0o04 => FileKind::Folder,
            0o06 => FileKind::BlockDevice(self.device()?),
            0o10 => FileKind::File,
            0o12 => FileKind::Symlink,
            0o14 => FileKind::Socket,
            _ => return Err(damaged(WHAT, "a file is of no kind")),
        })
    }

    fn device(&self) -> Result<u64, GuestError> {
        let word = Fields::new(WHAT, &self.data.bytes).be32(0)?;
        Ok(rustix::fs::makedev(word >> 18 & 0x3fff, word & 0x3_ffff))
    }
}

/// Returns the two forks, which share what the core leaves of the inode.
fn forks(
    fields: Fields<'_>,
    core_size: usize,
    flags: u64,
) -> Result<(Fork, Option<Fork>), GuestError> {
    let literal = fields.from(core_size)?;
    let split = usize::from(fields.u8(82)?).saturating_mul(8);
    let data_len = if split == 0 {
        literal.bytes().len()
    } else {
        split
    };
    let (data_extents, attribute_extents) = if flags & FLAG_LARGE_COUNTS != 0 {
        (fields.be64(24)?, u64::from(fields.be32(76)?))
    } else {
        (u64::from(fields.be32(76)?), u64::from(fields.be16(80)?))
    };
    let data = Fork {
        format: format(fields.u8(5)?)?,
        extents: data_extents,
        bytes: literal.get(0, data_len)?.to_vec(),
    };
    if split == 0 {
        return Ok((data, None));
    }
    let attributes = Fork {
        format: format(fields.u8(83)?)?,
        extents: attribute_extents,
        bytes: literal.from(data_len)?.bytes().to_vec(),
    };
    Ok((data, Some(attributes)))
}

fn format(byte: u8) -> Result<Format, GuestError> {
    Ok(match byte {
        0 => Format::Device,
        1 => Format::Local,
        2 => Format::Extents,
        3 => Format::Tree,
        _ => return Err(damaged(WHAT, "a fork is of no known format")),
    })
}

/// Nanoseconds since the smallest time that 32 bits of seconds can tell.
fn big_time(word: u64) -> FileTime {
    const EPOCH: i64 = 1 << 31;
    let seconds = i64::try_from(word / 1_000_000_000).unwrap_or(i64::MAX);
    let nanoseconds = u32::try_from(word % 1_000_000_000).unwrap_or_default();
    time(seconds.saturating_sub(EPOCH), nanoseconds)
}

fn small_time(word: u64) -> FileTime {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    time(
        i64::from(i32::from_be_bytes([a, b, c, d])),
        u32::from_be_bytes([e, f, g, h]),
    )
}
