//! Parity of packs: where its parts lie, and how they are encoded. Specified in `docs/format.md`,
//! "Parity". The arithmetic is in `pack`.

use super::cursor::{Cursor, in_range};
use super::file::take_version;
use super::{FILE_VERSION, FormatError};
use crate::id::PackId;
use crate::limits::{PACK_LEN_MAX, PARITY_BLOCK_LEN, PARITY_GROUP_LEN_MAX};

const MAGIC: &[u8; 8] = b"CAIRNPAR";
const HASH_CONTEXT: &str = "cairn 1 parity";
const WHAT: &str = "parity";
const HASH_LEN: usize = 32;
const CHECK_LEN: usize = 8;

/// How the blocks of a pack are dealt out to groups, and where their parity lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityLayout {
    pack_len: u64,
    blocks: u32,
    groups: u32,
    members: u32,
    spares: u32,
}

impl ParityLayout {
    /// Length of a parity block with its check.
    pub const RECORD_LEN: usize = CHECK_LEN.saturating_add(PARITY_BLOCK_LEN);

    /// Returns the layout for a pack of `pack_len` bytes with this much parity.
    ///
    /// # Errors
    ///
    /// A length that no pack has, or a part that is not from 1 to 100 percent.
    pub fn new(pack_len: u64, percent: u8) -> Result<Self, FormatError> {
        in_range("percent of parity", percent.into(), 1, 100)?;
        let bare = Self::with_spares(pack_len, 1)?;
        let spares = u64::from(bare.members).saturating_mul(percent.into());
        let spares = u32::try_from(spares.div_ceil(100)).unwrap_or(u32::MAX);
        Self::with_spares(pack_len, spares)
    }

    fn with_spares(pack_len: u64, spares: u32) -> Result<Self, FormatError> {
        in_range("length of a pack", pack_len, 1, PACK_LEN_MAX)?;
        let blocks = pack_len.div_ceil(PARITY_BLOCK_LEN as u64);
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let groups = blocks.div_ceil(PARITY_GROUP_LEN_MAX);
        let members = blocks.div_ceil(groups.max(1));
        in_range("spare blocks", spares.into(), 1, members.into())?;
        Ok(Self {
            pack_len,
            blocks,
            groups,
            members,
            spares,
        })
    }

    /// Returns the pack's length in bytes.
    pub fn pack_len(&self) -> u64 {
        self.pack_len
    }

    /// Returns how many blocks the pack has.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Returns how many groups there are.
    pub fn groups(&self) -> u32 {
        self.groups
    }

    /// Returns how many members every group has, those included that are no blocks of the pack.
    pub fn members(&self) -> u32 {
        self.members
    }

    /// Returns how many parity blocks every group has.
    pub fn spares(&self) -> u32 {
        self.spares
    }

    /// Returns the block that is a member of a group; `None` for one that is all zeros and no part
    /// of the pack.
    pub fn member(&self, group: u32, member: u32) -> Option<u32> {
        let block = member.checked_mul(self.groups)?.checked_add(group)?;
        (block < self.blocks).then_some(block)
    }

    /// Returns where a block begins in the pack.
    pub fn block_start(&self, block: u32) -> u64 {
        u64::from(block).saturating_mul(PARITY_BLOCK_LEN as u64)
    }

    /// Returns how many bytes of a block are the pack's: all, but for the last block.
    pub fn block_len(&self, block: u32) -> usize {
        let rest = self.pack_len.saturating_sub(self.block_start(block));
        usize::try_from(rest).map_or(PARITY_BLOCK_LEN, |rest| rest.min(PARITY_BLOCK_LEN))
    }

    /// Returns the number that a parity block is checked with.
    pub fn spare_number(&self, group: u32, spare: u32) -> u64 {
        let before = u64::from(group).saturating_mul(self.spares.into());
        let number = before.saturating_add(spare.into());
        number.saturating_add(self.blocks.into())
    }

    /// Returns where the records of a group begin in the file.
    pub fn records_start(&self, group: u32) -> u64 {
        let each = u64::from(self.spares).saturating_mul(Self::RECORD_LEN as u64);
        let before = u64::from(group).saturating_mul(each);
        before.saturating_add(self.directory_len() as u64)
    }

    /// Returns the length of the directory, of which there is one at each end of the file.
    pub fn directory_len(&self) -> usize {
        let table = (self.blocks as usize).saturating_mul(CHECK_LEN);
        table.saturating_add(ParityHead::LEN.saturating_add(HASH_LEN))
    }

    /// Returns the length of the whole file.
    pub fn file_len(&self) -> u64 {
        let end = self.records_start(self.groups);
        end.saturating_add(self.directory_len() as u64)
    }
}

/// The head of a pack's parity: whose it is, and how it is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityHead {
    /// The pack.
    pub pack: PackId,
    /// How the pack is dealt out.
    pub layout: ParityLayout,
}

impl ParityHead {
    /// Length in bytes.
    pub const LEN: usize = 64;

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FILE_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&block_len_field().to_le_bytes());
        bytes.extend_from_slice(&self.layout.pack_len.to_le_bytes());
        bytes.extend_from_slice(self.pack.as_bytes());
        bytes.extend_from_slice(&self.layout.groups.to_le_bytes());
        bytes.extend_from_slice(&self.layout.spares.to_le_bytes());
        bytes
    }

    /// Decodes a head from exactly [`ParityHead::LEN`] bytes, to know how long the directory is
    /// that it is part of: nothing vouches for it before that is decoded.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(WHAT, bytes);
        cursor.magic(MAGIC)?;
        take_version(&mut cursor, WHAT)?;
        cursor.reserved::<2>()?;
        let block_len = cursor.u32()?;
        let pack_len = cursor.array().map(u64::from_le_bytes)?;
        let pack = PackId::from_bytes(cursor.array()?);
        let (groups, spares) = (cursor.u32()?, cursor.u32()?);
        cursor.finish()?;
        if block_len != block_len_field() {
            return Err(FormatError::Malformed {
                rule: "blocks of parity must have 4096 bytes",
            });
        }
        let layout = ParityLayout::with_spares(pack_len, spares)?;
        if layout.groups != groups {
            return Err(FormatError::Malformed {
                rule: "a pack must have as few groups as hold its blocks",
            });
        }
        Ok(Self { pack, layout })
    }
}

fn block_len_field() -> u32 {
    u32::try_from(PARITY_BLOCK_LEN).unwrap_or(u32::MAX)
}

/// What stands at both ends of a parity file: by it, what is damaged is told from what is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParityDirectory {
    /// Whose parity it is.
    pub head: ParityHead,
    /// The check of every block of the pack.
    pub checks: Vec<u64>,
}

impl ParityDirectory {
    /// Encodes the directory as it stands at the beginning.
    pub fn encode(&self) -> Vec<u8> {
        let (head, table, hash) = self.parts();
        [head.as_slice(), &table, &hash].concat()
    }

    /// Encodes the directory as it stands at the end.
    pub fn encode_mirrored(&self) -> Vec<u8> {
        let (head, table, hash) = self.parts();
        [hash.as_slice(), &table, &head].concat()
    }

    fn parts(&self) -> (Vec<u8>, Vec<u8>, [u8; HASH_LEN]) {
        let head = self.head.encode();
        let table: Vec<u8> = self.checks.iter().flat_map(|it| it.to_le_bytes()).collect();
        let hash = hash(&head, &table);
        (head, table, hash)
    }

    /// Decodes what stands at the beginning, of which `head` was decoded before. `pack` is the one
    /// that the path names.
    pub fn decode(bytes: &[u8], pack: PackId) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(WHAT, bytes);
        let head_bytes = cursor.take(ParityHead::LEN)?;
        let table_len = bytes.len().saturating_sub(ParityHead::LEN + HASH_LEN);
        let table = cursor.take(table_len)?;
        let found = cursor.array()?;
        cursor.finish()?;
        Self::from_parts(head_bytes, table, found, pack)
    }

    /// Decodes what stands at the end.
    pub fn decode_mirrored(bytes: &[u8], pack: PackId) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(WHAT, bytes);
        let found = cursor.array()?;
        let table_len = bytes.len().saturating_sub(ParityHead::LEN + HASH_LEN);
        let table = cursor.take(table_len)?;
        let head_bytes = cursor.take(ParityHead::LEN)?;
        cursor.finish()?;
        Self::from_parts(head_bytes, table, found, pack)
    }

    fn from_parts(
        head_bytes: &[u8],
        table: &[u8],
        found: [u8; HASH_LEN],
        pack: PackId,
    ) -> Result<Self, FormatError> {
        if hash(head_bytes, table) != found {
            return Err(FormatError::ChecksumMismatch { what: WHAT });
        }
        let head = ParityHead::decode(head_bytes)?;
        if head.pack != pack {
            return Err(FormatError::Malformed {
                rule: "parity must be of the pack that its path names",
            });
        }
        let mut cursor = Cursor::new(WHAT, table);
        let checks = cursor.column(head.layout.blocks as usize)?;
        cursor.finish()?;
        let checks = checks.iter().map(|check| u64::from_le_bytes(*check));
        Ok(Self {
            head,
            checks: checks.collect(),
        })
    }
}

fn hash(head: &[u8], table: &[u8]) -> [u8; HASH_LEN] {
    let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
    hasher.update(head);
    hasher.update(table);
    hasher.finalize().into()
}

/// Returns the check of a whole block: the pack's last is filled up with zeros.
pub fn block_check(pack: PackId, number: u64, block: &[u8]) -> u64 {
    let hash = blake3::keyed_hash(pack.as_bytes(), block);
    let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first).wrapping_add(number)
}

/// Encodes a record: a parity block behind its check.
pub fn encode_record(pack: PackId, number: u64, block: &[u8]) -> Vec<u8> {
    [&block_check(pack, number, block).to_le_bytes(), block].concat()
}

/// Returns the parity block in a record, if its check holds.
pub fn decode_record(pack: PackId, number: u64, record: &[u8]) -> Option<&[u8]> {
    let (check, block) = record.split_first_chunk()?;
    let is_whole = block.len() == PARITY_BLOCK_LEN
        && block_check(pack, number, block) == u64::from_le_bytes(*check);
    is_whole.then_some(block)
}

#[cfg(test)]
mod tests;
