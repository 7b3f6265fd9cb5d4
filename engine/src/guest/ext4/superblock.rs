//! The superblock: how large everything is, and what the file system makes use of.

use super::super::fields::{join, le16, le32};
use super::super::tree::{GuestError, Volume};
use super::{damaged, need, unsupported};

const START: u64 = 1024;
const LEN: usize = 1024;
pub(super) const MAGIC: u16 = 0xef53;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;

const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_FLEX_BG: u32 = 0x200;
const INCOMPAT_EA_INODE: u32 = 0x400;
const INCOMPAT_LARGEDIR: u32 = 0x4000;
/// Those that reading copes with; the rest change what is read.
const INCOMPAT_KNOWN: u32 = 0x2 // folders hold the kinds of files
    | INCOMPAT_RECOVER
    | INCOMPAT_META_BG
    | INCOMPAT_EXTENTS
    | INCOMPAT_64BIT
    | 0x100 // multiple mount protection
    | INCOMPAT_FLEX_BG
    | INCOMPAT_EA_INODE
    | 0x2000 // a seed of its own for checksums
    | INCOMPAT_LARGEDIR
    | 0x8000 // content in inodes
    | 0x1_0000 // encryption of some files
    | 0x2_0000; // folders that ignore case

const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;

/// What the superblock says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Length of a block in bytes, 1 KiB to 64 KiB.
    pub block_len: u64,
    /// Number of blocks.
    pub block_count: u64,
    /// Number of inodes, which begin with 1.
    pub inode_count: u32,
    /// Inodes of each group.
    pub inodes_per_group: u32,
    /// Length of an inode in bytes, 128 to the length of a block.
    pub inode_len: u64,
    /// Inode of the journal, if the file system has one within.
    pub journal: Option<u32>,
    /// Whether the journal lies on another device.
    pub is_journal_elsewhere: bool,
    /// Whether the journal may hold what the blocks do not.
    pub is_unclean: bool,
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    first_data_block: u64,
    blocks_per_group: u64,
    descriptor_len: u64,
    first_meta_group: u64,
    backup_groups: [u32; 2],
}

impl Superblock {
    /// Reads the superblock of a volume.
    pub fn read(volume: &dyn Volume) -> Result<Self, GuestError> {
        let mut bytes = vec![0; LEN];
        volume.read_at(START, &mut bytes)?;
        Self::decode(&bytes)
    }

    /// Decodes the 1024 bytes of a superblock.
    pub fn decode(bytes: &[u8]) -> Result<Self, GuestError> {
        let short = |at| need(le16(bytes, at));
        let word = |at| need(le32(bytes, at));
        if short(0x38)? != MAGIC {
            return Err(damaged("the superblock's magic number is missing"));
        }
        let is_old = word(0x4c)? == 0;
        let feature = |at| if is_old { Ok(0) } else { word(at) };
        let incompat = feature(0x60)?;
        if incompat & !INCOMPAT_KNOWN != 0 {
            return Err(unsupported(unknown_features(incompat & !INCOMPAT_KNOWN)));
        }
        let shift = word(0x18)?;
        if shift > 6 {
            return Err(damaged("the length of a block is out of range"));
        }
        let block_len = 1024_u64.checked_shl(shift).unwrap_or(1024);
        let inode_len = if is_old { 128 } else { u64::from(short(0x58)?) };
        if !(128..=block_len).contains(&inode_len) || !inode_len.is_power_of_two() {
            return Err(damaged("the length of an inode is out of range"));
        }
        let is_wide = incompat & INCOMPAT_64BIT != 0;
        let descriptor_len = if is_wide { u64::from(short(0xfe)?) } else { 32 };
        if !(32..=1024).contains(&descriptor_len) || !descriptor_len.is_power_of_two() {
            return Err(damaged(
                "the length of a group's descriptor is out of range",
            ));
        }
        let high = if is_wide { word(0x150)? } else { 0 };
        let compat = feature(0x5c)?;
        let journal = word(0xe0)?;
        let has_journal = compat & COMPAT_HAS_JOURNAL != 0;
        let superblock = Self {
            block_len,
            block_count: join(high, word(0x4)?),
            inode_count: word(0)?,
            inodes_per_group: word(0x28)?,
            inode_len,
            journal: (has_journal && journal != 0).then_some(journal),
            is_journal_elsewhere: has_journal && journal == 0,
            is_unclean: incompat & INCOMPAT_RECOVER != 0,
            compat,
            incompat,
            ro_compat: feature(0x64)?,
            first_data_block: u64::from(word(0x14)?),
            blocks_per_group: u64::from(word(0x20)?),
            descriptor_len,
            first_meta_group: u64::from(word(0x104)?),
            backup_groups: [word(0x24c)?, word(0x250)?],
        };
        superblock.check()?;
        Ok(superblock)
    }

    fn check(&self) -> Result<(), GuestError> {
        if self.inodes_per_group == 0 || self.blocks_per_group == 0 {
            return Err(damaged("its groups are empty"));
        }
        if self.first_data_block >= self.block_count {
            return Err(damaged("it has no blocks"));
        }
        // Whoever multiplies a block's number with the length of a block relies on this.
        if self.block_count.checked_mul(self.block_len).is_none() {
            return Err(damaged("it has more blocks than there can be"));
        }
        Ok(())
    }

    /// Returns what people call a file system with these features.
    pub fn kind(&self) -> &'static str {
        let newer = INCOMPAT_EXTENTS | INCOMPAT_64BIT | INCOMPAT_FLEX_BG;
        // What the driver of ext3 never knew: large and huge files, groups with checksums, more
        // subfolders, larger inodes and what came later.
        let newer_ro = !0x7;
        if self.incompat & newer != 0 || self.ro_compat & newer_ro != 0 {
            "ext4"
        } else if self.compat & COMPAT_HAS_JOURNAL != 0 {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// Returns whether a folder's size may need more than 32 bits.
    pub fn has_large_folders(&self) -> bool {
        self.incompat & INCOMPAT_LARGEDIR != 0
    }

    /// Returns whether descriptors of groups hold the high halves of block numbers.
    pub fn has_wide_descriptors(&self) -> bool {
        self.descriptor_len >= 64
    }

    /// Returns where a group's descriptor begins, in bytes.
    pub fn descriptor_offset(&self, group: u64) -> Option<u64> {
        let per_block = self.block_len.checked_div(self.descriptor_len)?;
        let table_block = group.checked_div(per_block)?;
        let block = self.descriptor_block(table_block, per_block)?;
        let within = group
            .checked_rem(per_block)?
            .checked_mul(self.descriptor_len)?;
        block.checked_mul(self.block_len)?.checked_add(within)
    }

    fn descriptor_block(&self, table_block: u64, per_block: u64) -> Option<u64> {
        let is_meta = self.incompat & INCOMPAT_META_BG != 0;
        if !is_meta || table_block < self.first_meta_group {
            let superblock = START.checked_div(self.block_len)?;
            return superblock.checked_add(table_block)?.checked_add(1);
        }
        let group = table_block.checked_mul(per_block)?;
        let first = group.checked_mul(self.blocks_per_group)?;
        let first = first.checked_add(self.first_data_block)?;
        let mut skipped = u64::from(self.has_superblock(group));
        if group == 0 && self.block_len == START && self.first_data_block == 0 {
            // With clusters of blocks the boot sector's block counts.
            skipped = skipped.checked_add(1)?;
        }
        first.checked_add(skipped)
    }

    /// Returns whether a group begins with a copy of the superblock.
    fn has_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return self
                .backup_groups
                .iter()
                .any(|copy| u64::from(*copy) == group);
        }
        if group == 1 || self.ro_compat & RO_COMPAT_SPARSE_SUPER == 0 {
            return true;
        }
        [3, 5, 7].iter().any(|base| is_power_of(*base, group))
    }
}

fn is_power_of(base: u64, number: u64) -> bool {
    let mut power = base;
    while power < number {
        power = power.saturating_mul(base);
    }
    power == number
}

fn unknown_features(bits: u32) -> String {
    let name = match bits {
        0x1 => "compression",
        0x8 => "the whole device as another file system's journal",
        0x1000 => "data in folder entries",
        _ => return format!("features that are not known (incompat {bits:#x})"),
    };
    name.to_owned()
}
