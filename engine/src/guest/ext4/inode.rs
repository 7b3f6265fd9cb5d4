//! Inodes: what is known of a file.

use super::super::fields::{join, le16, le32};
use super::super::tree::{FileKind, FileTime, GuestError, Stat};
use super::blocks::Blocks;
use super::{damaged, need};

/// Where the map of a file, or its content, lies in its inode.
const MAP_START: usize = 0x28;
const MAP_END: usize = 0x64;
/// What every inode has; the rest depends on its length.
const BASE_LEN: usize = 128;

const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE: u32 = 0x1000_0000;

/// An inode, in the bytes that it has on the disk.
pub(super) struct Inode {
    bytes: Vec<u8>,
    mode: u16,
    flags: u32,
    size: u64,
}

impl Inode {
    /// Reads the inode of a number.
    pub fn read(blocks: &Blocks, number: u64) -> Result<Self, GuestError> {
        let superblock = &blocks.superblock;
        if number == 0 || number > u64::from(superblock.inode_count) {
            return Err(damaged("a folder names a file that cannot exist"));
        }
        let per_group = u64::from(superblock.inodes_per_group);
        let index = number.saturating_sub(1);
        let group = index.checked_div(per_group).unwrap_or_default();
        let within = index.checked_rem(per_group).unwrap_or_default();
        let table = inode_table(blocks, group)?.saturating_mul(superblock.block_len);
        let offset = table.saturating_add(within.saturating_mul(superblock.inode_len));
        let len = usize::try_from(superblock.inode_len).unwrap_or(BASE_LEN);
        let mut bytes = vec![0; len];
        blocks.read(offset, &mut bytes)?;
        let mode = need(le16(&bytes, 0))?;
        let low = need(le32(&bytes, 0x4))?;
        let high = need(le32(&bytes, 0x6c))?;
        // Elsewhere the field has another meaning, or none.
        let is_wide = mode >> 12 == 0x8 || superblock.has_large_folders();
        Ok(Self {
            mode,
            flags: need(le32(&bytes, 0x20))?,
            size: if is_wide {
                join(high, low)
            } else {
                u64::from(low)
            },
            bytes,
        })
    }

    /// Returns the length of the content in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns whether the content, or a folder's names, can be read only with a key.
    pub fn is_encrypted(&self) -> bool {
        self.flags & FLAG_ENCRYPTED != 0
    }

    /// Returns whether the content is found by extents, rather than by lists of blocks.
    pub fn has_extents(&self) -> bool {
        self.flags & FLAG_EXTENTS != 0
    }

    /// Returns whether the content lies in the inode itself.
    pub fn is_inline(&self) -> bool {
        self.flags & FLAG_INLINE != 0
    }

    /// Returns the 60 bytes that hold the map, or the beginning of the content.
    pub fn map(&self) -> Result<&[u8], GuestError> {
        need(self.bytes.get(MAP_START..MAP_END))
    }

    /// Returns a symbolic link's target if it is short enough to lie where the map would.
    pub fn target_in_place(&self) -> Result<Option<&[u8]>, GuestError> {
        let len = usize::try_from(self.size).unwrap_or(usize::MAX);
        if len >= MAP_END.saturating_sub(MAP_START) || self.has_extents() || self.is_inline() {
            return Ok(None);
        }
        Ok(self.map()?.get(..len))
    }

    /// Returns the bytes after the fixed fields, where attributes may be kept.
    pub fn attributes(&self) -> Option<&[u8]> {
        let extra = usize::from(le16(&self.bytes, BASE_LEN)?);
        self.bytes.get(BASE_LEN.checked_add(extra)?..)
    }

    /// Returns the block that holds further attributes, if there is one.
    pub fn attribute_block(&self) -> Result<Option<u64>, GuestError> {
        let low = need(le32(&self.bytes, 0x68))?;
        let high = need(le16(&self.bytes, 0x76))?;
        let block = join(u32::from(high), low);
        Ok((block != 0).then_some(block))
    }

    /// Returns what the file is.
    pub fn kind(&self) -> Result<FileKind, GuestError> {
        Ok(match self.mode >> 12 {
            0x1 => FileKind::Fifo,
            0x2 => FileKind::CharDevice(self.device()?),
            0x4 => FileKind::Folder,
            0x6 => FileKind::BlockDevice(self.device()?),
            0x8 => FileKind::File,
            0xa => FileKind::Symlink,
            0xc => FileKind::Socket,
            _ => return Err(damaged("a file is of no known kind")),
        })
    }

    fn device(&self) -> Result<u64, GuestError> {
        let map = self.map()?;
        let old = need(le32(map, 0))?;
        let new = need(le32(map, 4))?;
        let (major, minor) = match old {
            0 => ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xf_ff00)),
            old => ((old >> 8) & 0xff, old & 0xff),
        };
        Ok(rustix::fs::makedev(major, minor))
    }

    /// Returns what is known of the file.
    pub fn stat(&self) -> Result<Stat, GuestError> {
        let bytes = &self.bytes;
        let id = |low, high| {
            let (low, high) = (need(le16(bytes, low))?, need(le16(bytes, high))?);
            Ok::<_, GuestError>((u32::from(high) << 16) | u32::from(low))
        };
        Ok(Stat {
            kind: self.kind()?,
            mode: Some(self.mode & 0o7777),
            owner: Some((id(0x2, 0x78)?, id(0x18, 0x7a)?)),
            size: self.size,
            links: u32::from(need(le16(bytes, 0x1a))?),
            modified: self.time(0x10, 0x88)?,
            accessed: Some(self.time(0x8, 0x8c)?),
        })
    }

    /// Returns a time whose seconds lie at one place, and whose rest at another if the inode is
    /// long enough to have it.
    fn time(&self, at: usize, rest: usize) -> Result<FileTime, GuestError> {
        let seconds = i64::from(need(le32(&self.bytes, at))?.cast_signed());
        let has_rest = le16(&self.bytes, BASE_LEN).is_some_and(|extra| {
            let end = BASE_LEN.saturating_add(usize::from(extra));
            rest.saturating_add(4) <= end
        });
        let rest = le32(&self.bytes, rest)
            .filter(|_| has_rest)
            .unwrap_or_default();
        let nanoseconds = rest >> 2;
        Ok(FileTime {
            // Two bits go on where 32 end, in the year 2038.
            seconds: seconds.saturating_add(i64::from(rest & 3) << 32),
            nanoseconds: nanoseconds.min(999_999_999),
        })
    }
}

/// Returns the first block of a group's table of inodes.
fn inode_table(blocks: &Blocks, group: u64) -> Result<u64, GuestError> {
    let offset = blocks.superblock.descriptor_offset(group);
    let offset = offset.ok_or_else(|| damaged("a group has no descriptor"))?;
    let mut low = [0; 4];
    let mut high = [0; 4];
    blocks.read(offset.saturating_add(0x8), &mut low)?;
    if blocks.superblock.has_wide_descriptors() {
        blocks.read(offset.saturating_add(0x28), &mut high)?;
    }
    Ok(join(u32::from_le_bytes(high), u32::from_le_bytes(low)))
}
