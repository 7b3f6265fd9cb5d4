//! The journal of an unclean file system, replayed into memory.
//!
//! A transaction is a row of descriptor blocks, each followed by the blocks that it describes, and
//! of revocations, ended by a commit. What lacks its commit never happened. A block is taken in
//! the version of the last transaction that holds it, unless that or a later one revokes it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::checksum::crc32c;
use super::super::fields::{array, be16, be32, be64, join};
use super::super::tree::GuestError;
use super::blocks::{Blocks, Newer};
use super::inode::Inode;
use super::map::{self, Run};
use super::{damaged, need};

/// What every block of the journal's own begins with.
pub(super) const MAGIC: u32 = 0xc03b_3998;

const KIND_DESCRIPTOR: u32 = 1;
const KIND_COMMIT: u32 = 2;
const KIND_SUPERBLOCK_OLD: u32 = 3;
const KIND_SUPERBLOCK: u32 = 4;
const KIND_REVOCATION: u32 = 5;
const HEADER_LEN: usize = 12;

const FEATURE_REVOKE: u32 = 0x1;
const FEATURE_64BIT: u32 = 0x2;
const FEATURE_ASYNC_COMMIT: u32 = 0x4;
const FEATURE_CHECKSUM_2: u32 = 0x8;
const FEATURE_CHECKSUM_3: u32 = 0x10;
const FEATURE_FAST_COMMIT: u32 = 0x20;
const FEATURES_KNOWN: u32 = FEATURE_REVOKE
    | FEATURE_64BIT
    | FEATURE_ASYNC_COMMIT
    | FEATURE_CHECKSUM_2
    | FEATURE_CHECKSUM_3
    | FEATURE_FAST_COMMIT;

const TAG_ESCAPED: u32 = 0x1;
const TAG_SAME_UUID: u32 = 0x2;
const TAG_LAST: u32 = 0x8;
const UUID_LEN: usize = 16;

/// Blocks for fast commits where the journal does not say how many.
const FAST_BLOCKS_DEFAULT: u32 = 256;
/// What an area of fast commits begins with.
const FAST_TAG_HEAD: u16 = 9;

/// Longest journal that is replayed, in blocks: the kernel's is 10 240 000, usual ones are under
/// 262 144. Bounds the memory that it takes.
const BLOCKS_MAX: u32 = 4 << 20;
/// Runs of blocks that a journal may consist of.
const RUNS_MAX: usize = 1 << 16;
/// Different blocks that a journal may revoke: as many as the longest one that is replayed has of
/// its own. Bounds the memory that they take.
const REVOKED_MAX: usize = 4 << 20;

/// Lays what an unclean journal holds over the blocks, and returns what is to be said about it.
pub(super) fn replay(blocks: &mut Blocks) -> Result<Vec<String>, GuestError> {
    if !blocks.superblock.is_unclean {
        return Ok(Vec::new());
    }
    let elsewhere = blocks.superblock.is_journal_elsewhere;
    let Some(number) = blocks.superblock.journal.filter(|_| !elsewhere) else {
        return Ok(vec![not_replayed("it lies on another device")]);
    };
    let mut log = match Log::open(blocks, u64::from(number)) {
        Ok(log) => log,
        Err(GuestError::Io(error)) => return Err(error.into()),
        Err(error) => return Ok(vec![not_replayed(&reason(&error))]),
    };
    match log.read() {
        Ok(()) => {}
        Err(GuestError::Io(error)) => return Err(error.into()),
        Err(error) => log.doubts.push(not_replayed(&reason(&error))),
    }
    let (overlay, doubts) = (log.overlay(), std::mem::take(&mut log.doubts));
    drop(log);
    blocks.lay_over(overlay)?;
    Ok(doubts)
}

fn reason(error: &GuestError) -> String {
    use std::error::Error;
    match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

fn not_replayed(reason: &str) -> String {
    format!(
        "the file system was not unmounted, and its journal was not replayed to the end: {reason}"
    )
}

/// A block that a transaction writes.
struct Write {
    sequence: u32,
    block: u64,
    /// Its checksum, by the journal's kind of these.
    checksum: u32,
    newer: Newer,
}

/// A journal that is being read.
struct Log<'b> {
    blocks: &'b Blocks,
    /// Where the journal's blocks are.
    runs: Vec<Run>,
    features: u32,
    /// What checksums begin with.
    seed: u32,
    /// The first block that holds transactions, and the first that does not.
    first: u32,
    end: u32,
    next: u32,
    sequence: u32,
    writes: Vec<Write>,
    /// The last transaction that revokes a block.
    revoked: HashMap<u64, u32>,
    doubts: Vec<String>,
}

impl<'b> Log<'b> {
    fn open(blocks: &'b Blocks, number: u64) -> Result<Self, GuestError> {
        let inode = Inode::read(blocks, number)?;
        let mut runs = Vec::new();
        map::for_each_run(blocks, &inode, &mut |run| {
            if runs.len() >= RUNS_MAX {
                return Err(damaged("the journal is in too many pieces"));
            }
            runs.push(run);
            Ok(true)
        })?;
        let mut log = Self {
            blocks,
            runs,
            features: 0,
            seed: 0,
            first: 0,
            end: 0,
            next: 0,
            sequence: 0,
            writes: Vec::new(),
            revoked: HashMap::new(),
            doubts: Vec::new(),
        };
        log.read_superblock()?;
        Ok(log)
    }

    fn read_superblock(&mut self) -> Result<(), GuestError> {
        let block = self.block(0)?;
        let word = |at| need(be32(&block, at));
        let kind = word(4)?;
        if word(0)? != MAGIC || !matches!(kind, KIND_SUPERBLOCK | KIND_SUPERBLOCK_OLD) {
            return Err(damaged("the journal has no superblock"));
        }
        if u64::from(word(0xc)?) != self.blocks.superblock.block_len {
            return Err(damaged("the journal has blocks of another length"));
        }
        if kind == KIND_SUPERBLOCK {
            self.features = word(0x28)?;
        }
        if self.features & !FEATURES_KNOWN != 0 {
            return Err(damaged("the journal has features that are not known"));
        }
        self.seed = crc32c(u32::MAX, &need(array::<UUID_LEN>(&block, 0x30))?);
        if self.has_checksums() {
            let mut covered = need(block.get(..1024))?.to_vec();
            need(covered.get_mut(0xfc..0x100))?.fill(0);
            if crc32c(u32::MAX, &covered) != word(0xfc)? {
                return Err(damaged(
                    "the checksum of the journal's superblock does not fit",
                ));
            }
        }
        let end = word(0x10)?;
        let fast = match word(0x54)? {
            0 => FAST_BLOCKS_DEFAULT,
            count => count,
        };
        let has_fast = self.features & FEATURE_FAST_COMMIT != 0;
        self.end = if has_fast {
            end.saturating_sub(fast)
        } else {
            end
        };
        self.first = word(0x14)?;
        self.sequence = word(0x18)?;
        self.next = word(0x1c)?;
        if end > BLOCKS_MAX || self.first == 0 || self.first >= self.end {
            return Err(damaged("the journal's limits make no sense"));
        }
        // 0 is a journal with nothing in it.
        if self.next != 0 && !(self.first..self.end).contains(&self.next) {
            return Err(damaged("the journal begins outside of itself"));
        }
        Ok(())
    }

    fn has_checksums(&self) -> bool {
        self.features & (FEATURE_CHECKSUM_2 | FEATURE_CHECKSUM_3) != 0
    }

    /// Returns where a block of the journal is on the disk.
    fn place(&self, index: u32) -> Result<u64, GuestError> {
        let index = u64::from(index);
        let after = self.runs.partition_point(|run| run.logical <= index);
        let run = after.checked_sub(1).and_then(|at| self.runs.get(at));
        let run = run.filter(|run| index < run.logical.saturating_add(run.count));
        let run = run.ok_or_else(|| damaged("the journal is shorter than it says"))?;
        let within = index.saturating_sub(run.logical);
        Ok(run.physical.saturating_add(within))
    }

    fn block(&self, index: u32) -> Result<Vec<u8>, GuestError> {
        self.blocks.read_block(self.place(index)?)
    }

    /// Returns the number of the next block, and goes on to the one after it.
    fn step(&mut self) -> u32 {
        let index = self.next;
        self.next = match index.saturating_add(1) {
            next if next >= self.end => self.first,
            next => next,
        };
        index
    }

    /// Reads transactions until one is not complete.
    fn read(&mut self) -> Result<(), GuestError> {
        if self.next == 0 {
            return Ok(());
        }
        let len = self.end.saturating_sub(self.first);
        let mut taken = 0_u32;
        let mut pending = Vec::new();
        let mut revoked = HashSet::new();
        // What a wrapped journal holds beyond its own length cannot be part of it.
        while taken < len {
            let index = self.step();
            taken = taken.saturating_add(1);
            let block = self.block(index)?;
            if be32(&block, 0) != Some(MAGIC) || be32(&block, 8) != Some(self.sequence) {
                break;
            }
            match be32(&block, 4) {
                Some(KIND_DESCRIPTOR) => {
                    if !self.is_tail_right(&block)? {
                        self.doubt("a descriptor's checksum does not fit");
                        break;
                    }
                    let count = self.descriptor(&block, len.saturating_sub(taken), &mut pending)?;
                    taken = taken.saturating_add(count);
                }
                Some(KIND_REVOCATION) => {
                    if !self.is_tail_right(&block)? {
                        self.doubt("a revocation's checksum does not fit");
                        break;
                    }
                    self.revocation(&block, &mut revoked)?;
                }
                Some(KIND_COMMIT) => {
                    if !self.is_commit_right(&block)? {
                        self.doubt("a commit's checksum does not fit");
                        break;
                    }
                    self.commit(&mut pending, &mut revoked)?;
                }
                _ => break,
            }
        }
        self.look_for_fast_commits()
    }

    /// Takes a transaction that is complete. Blocks that are not what was written are left out, as
    /// the kernel does: their places keep what they had before.
    fn commit(
        &mut self,
        pending: &mut Vec<Write>,
        revoked: &mut HashSet<u64>,
    ) -> Result<(), GuestError> {
        let mut damaged = 0_u64;
        for write in pending.drain(..) {
            if self.is_block_right(&write)? {
                self.writes.push(write);
            } else {
                damaged = damaged.saturating_add(1);
            }
        }
        if damaged > 0 {
            self.doubts.push(format!(
                "the journal of the file system was replayed without {damaged} blocks whose \
                 checksums do not fit"
            ));
        }
        for block in revoked.drain() {
            self.revoked.insert(block, self.sequence);
        }
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    fn doubt(&mut self, what: &str) {
        self.doubts.push(not_replayed(what));
    }

    /// Returns whether the checksum at the end of a descriptor or revocation fits.
    fn is_tail_right(&self, block: &[u8]) -> Result<bool, GuestError> {
        if !self.has_checksums() {
            return Ok(true);
        }
        let (covered, tail) = need(block.split_last_chunk::<4>())?;
        let state = crc32c(self.seed, covered);
        Ok(crc32c(state, &[0; 4]) == u32::from_be_bytes(*tail))
    }

    fn is_commit_right(&self, block: &[u8]) -> Result<bool, GuestError> {
        if !self.has_checksums() {
            return Ok(true);
        }
        let mut covered = block.to_vec();
        need(covered.get_mut(16..20))?.fill(0);
        Ok(Some(crc32c(self.seed, &covered)) == be32(block, 16))
    }

    /// Takes the blocks that a descriptor describes, at most `limit`; returns how many they are.
    fn descriptor(
        &mut self,
        block: &[u8],
        limit: u32,
        pending: &mut Vec<Write>,
    ) -> Result<u32, GuestError> {
        let tail = if self.has_checksums() { 4 } else { 0 };
        let end = block.len().saturating_sub(tail);
        let mut rest = need(block.get(HEADER_LEN..end))?;
        let mut count = 0_u32;
        while let Some(tag) = self.tag(rest) {
            if count >= limit {
                return Err(damaged("the journal describes more blocks than it has"));
            }
            count = count.saturating_add(1);
            let index = self.step();
            let place = self.place(index)?;
            pending.push(Write {
                sequence: self.sequence,
                block: tag.block,
                checksum: tag.checksum,
                newer: Newer {
                    block: place,
                    is_escaped: tag.flags & TAG_ESCAPED != 0,
                },
            });
            if tag.flags & TAG_LAST != 0 {
                break;
            }
            rest = rest.get(tag.len..).unwrap_or_default();
        }
        Ok(count)
    }

    fn tag(&self, bytes: &[u8]) -> Option<Tag> {
        let is_wide = self.features & FEATURE_64BIT != 0;
        let (high_at, mut len) = if self.features & FEATURE_CHECKSUM_3 != 0 {
            (8, 16)
        } else {
            // The second kind of checksums takes two bytes more, which hold nothing.
            let padding = if self.features & FEATURE_CHECKSUM_2 != 0 {
                2
            } else {
                0
            };
            (
                8,
                if is_wide { 12 } else { 8_usize }.saturating_add(padding),
            )
        };
        bytes.get(..len)?;
        let (flags, checksum) = if self.features & FEATURE_CHECKSUM_3 != 0 {
            (be32(bytes, 4)?, be32(bytes, 12)?)
        } else {
            (u32::from(be16(bytes, 6)?), u32::from(be16(bytes, 4)?))
        };
        let high = if is_wide { be32(bytes, high_at)? } else { 0 };
        if flags & TAG_SAME_UUID == 0 {
            len = len.saturating_add(UUID_LEN);
        }
        Some(Tag {
            block: join(high, be32(bytes, 0)?),
            flags,
            checksum,
            len,
        })
    }

    /// Returns whether a block has the checksum that its tag says.
    fn is_block_right(&self, write: &Write) -> Result<bool, GuestError> {
        if !self.has_checksums() {
            return Ok(true);
        }
        let block = self.blocks.read_block(write.newer.block)?;
        let state = crc32c(self.seed, &write.sequence.to_be_bytes());
        let found = crc32c(state, &block);
        Ok(match self.features & FEATURE_CHECKSUM_3 {
            0 => found & 0xffff == write.checksum,
            _ => found == write.checksum,
        })
    }

    fn revocation(&self, block: &[u8], revoked: &mut HashSet<u64>) -> Result<(), GuestError> {
        let is_wide = self.features & FEATURE_64BIT != 0;
        let len = if is_wide { 8 } else { 4 };
        let end = usize::try_from(need(be32(block, HEADER_LEN))?).unwrap_or(usize::MAX);
        let list = block.get(HEADER_LEN.saturating_add(4)..end);
        let list = list.ok_or_else(|| damaged("a revocation in the journal is too long"))?;
        for record in list.chunks_exact(len) {
            if revoked.len().saturating_add(self.revoked.len()) >= REVOKED_MAX {
                return Err(damaged("the journal revokes too many blocks"));
            }
            revoked.insert(match is_wide {
                true => need(be64(record, 0))?,
                false => u64::from(need(be32(record, 0))?),
            });
        }
        Ok(())
    }

    /// Changes may be kept in a shorter form after the last transaction. That form is not read.
    fn look_for_fast_commits(&mut self) -> Result<(), GuestError> {
        if self.features & FEATURE_FAST_COMMIT == 0 {
            return Ok(());
        }
        // One block lies unused between the transactions and them.
        let block = self.block(self.end.saturating_add(1))?;
        let is_head = array(&block, 0).map(u16::from_le_bytes) == Some(FAST_TAG_HEAD);
        let sequence = array(&block, 8).map(u32::from_le_bytes);
        if is_head && sequence == Some(self.sequence) {
            self.doubt("its last changes are fast commits, which cannot be read here");
        }
        Ok(())
    }

    /// Returns the blocks that the journal has a newer version of.
    fn overlay(&self) -> BTreeMap<u64, Newer> {
        let mut overlay = BTreeMap::new();
        for write in &self.writes {
            // Transactions are counted in a circle.
            let is_revoked = self
                .revoked
                .get(&write.block)
                .is_some_and(|sequence| sequence.wrapping_sub(write.sequence).cast_signed() >= 0);
            if !is_revoked {
                overlay.insert(write.block, write.newer);
            }
        }
        overlay
    }
}

/// What a descriptor says of one block.
struct Tag {
    block: u64,
    flags: u32,
    checksum: u32,
    len: usize,
}
