//! Where a file's blocks are: trees of extents, and the lists of blocks of older file systems.

use super::super::fields::{join, le16, le32};
use super::super::tree::GuestError;
use super::blocks::Blocks;
use super::inode::Inode;
use super::{damaged, need};

const EXTENT_MAGIC: u16 = 0xf30a;
/// The kernel's limit.
const EXTENT_DEPTH_MAX: u16 = 5;
const ENTRY_LEN: usize = 12;
/// Longer ones are allocated and hold nothing yet.
const WRITTEN_LEN_MAX: u64 = 32768;
const DIRECT_BLOCKS: usize = 12;
/// Blocks of a file have numbers of 32 bits, whatever its size says.
const LIST_BLOCKS_MAX: u64 = 1 << 32;

/// Blocks that follow one another both in a file and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the first in the file.
    pub logical: u64,
    /// Number of the first on the disk.
    pub physical: u64,
    /// How many they are.
    pub count: u64,
}

type Sink<'a> = &'a mut dyn FnMut(Run) -> Result<bool, GuestError>;

/// Hands the runs of a file that hold data to `sink`, ascending, until it returns `false`.
pub(super) fn for_each_run(
    blocks: &Blocks,
    inode: &Inode,
    sink: Sink<'_>,
) -> Result<(), GuestError> {
    if inode.has_extents() {
        let mut walk = ExtentWalk {
            blocks,
            sink,
            next: 0,
        };
        walk.node(inode.map()?, None)?;
        return Ok(());
    }
    let block_len = blocks.superblock.block_len;
    let mut walk = ListWalk {
        blocks,
        sink,
        logical: 0,
        end: inode.size().div_ceil(block_len).min(LIST_BLOCKS_MAX),
        pending: None,
    };
    walk.inode(inode.map()?)
}

struct ExtentWalk<'a> {
    blocks: &'a Blocks,
    sink: Sink<'a>,
    /// The first block of the file that may still come. Extents ascend, which also bounds the
    /// walk: no node can be visited twice.
    next: u64,
}

impl ExtentWalk<'_> {
    /// Walks a node whose depth is known from the one above it. Returns whether to go on.
    fn node(&mut self, node: &[u8], depth: Option<u16>) -> Result<bool, GuestError> {
        let short = |at| need(le16(node, at));
        let found = short(6)?;
        if short(0)? != EXTENT_MAGIC {
            return Err(damaged("a node of extents has no magic number"));
        }
        if found > EXTENT_DEPTH_MAX || depth.is_some_and(|depth| depth != found) {
            return Err(damaged("a tree of extents has a wrong depth"));
        }
        let count = usize::from(short(2)?);
        if count == 0 && depth.is_some() {
            return Err(damaged("a node of extents is empty"));
        }
        let entries = need(node.get(ENTRY_LEN..))?.chunks_exact(ENTRY_LEN);
        if count > entries.len() {
            return Err(damaged("a node of extents has too many of them"));
        }
        for entry in entries.take(count) {
            let goes_on = match found.checked_sub(1) {
                None => self.extent(entry)?,
                Some(below) => self.child(entry, below)?,
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn child(&mut self, entry: &[u8], depth: u16) -> Result<bool, GuestError> {
        let logical = u64::from(need(le32(entry, 0))?);
        if logical < self.next {
            return Err(damaged("extents do not ascend"));
        }
        let high = u32::from(need(le16(entry, 8))?);
        let block = join(high, need(le32(entry, 4))?);
        let node = self.blocks.read_block(block)?;
        self.node(&node, Some(depth))
    }

    fn extent(&mut self, entry: &[u8]) -> Result<bool, GuestError> {
        let logical = u64::from(need(le32(entry, 0))?);
        let len = u64::from(need(le16(entry, 4))?);
        let high = u32::from(need(le16(entry, 6))?);
        let physical = join(high, need(le32(entry, 8))?);
        if len == 0 || logical < self.next {
            return Err(damaged("extents do not ascend"));
        }
        let is_written = len <= WRITTEN_LEN_MAX;
        let count = match is_written {
            true => len,
            false => len.saturating_sub(WRITTEN_LEN_MAX),
        };
        self.next = logical.saturating_add(count);
        if !is_written {
            return Ok(true);
        }
        (self.sink)(Run {
            logical,
            physical,
            count,
        })
    }
}

struct ListWalk<'a> {
    blocks: &'a Blocks,
    sink: Sink<'a>,
    /// The block of the file that comes next.
    logical: u64,
    /// The first block beyond the file's end.
    end: u64,
    /// What was found and may go on.
    pending: Option<Run>,
}

impl ListWalk<'_> {
    fn inode(&mut self, map: &[u8]) -> Result<(), GuestError> {
        for index in 0..DIRECT_BLOCKS {
            let block = need(le32(map, index.saturating_mul(4)))?;
            if !self.list(block, 0)? {
                return Ok(());
            }
        }
        for depth in 1..=3_usize {
            let at = DIRECT_BLOCKS.saturating_add(depth).saturating_sub(1);
            let block = need(le32(map, at.saturating_mul(4)))?;
            if !self.list(block, depth)? {
                return Ok(());
            }
        }
        self.flush().map(drop)
    }

    /// Takes a block of content (depth 0), or a list of lists of that depth. Returns whether to
    /// go on.
    fn list(&mut self, block: u32, depth: usize) -> Result<bool, GuestError> {
        if self.logical >= self.end {
            self.flush()?;
            return Ok(false);
        }
        if depth == 0 {
            return self.content(block);
        }
        let Some(below) = depth.checked_sub(1).filter(|_| block != 0) else {
            self.skip_list(depth);
            return Ok(true);
        };
        let list = self.blocks.read_block(u64::from(block))?;
        if list.iter().all(|byte| *byte == 0) {
            self.skip_list(depth);
            return Ok(true);
        }
        for field in list.chunks_exact(4) {
            if !self.list(need(le32(field, 0))?, below)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Passes over a list that is not there, or names nothing: a hole as long as all that it could
    /// name.
    fn skip_list(&mut self, depth: usize) {
        let per_list = self.blocks.superblock.block_len / 4;
        let span = (0..depth).fold(1_u64, |span, _| span.saturating_mul(per_list));
        self.logical = self.logical.saturating_add(span);
    }

    fn content(&mut self, block: u32) -> Result<bool, GuestError> {
        let logical = self.logical;
        self.logical = logical.saturating_add(1);
        let physical = u64::from(block);
        match &mut self.pending {
            _ if block == 0 => return Ok(true),
            Some(run)
                if run.logical.saturating_add(run.count) == logical
                    && run.physical.saturating_add(run.count) == physical =>
            {
                run.count = run.count.saturating_add(1);
                return Ok(true);
            }
            _ => {}
        }
        let goes_on = self.flush()?;
        self.pending = Some(Run {
            logical,
            physical,
            count: 1,
        });
        Ok(goes_on)
    }

    fn flush(&mut self) -> Result<bool, GuestError> {
        match self.pending.take() {
            Some(run) => (self.sink)(run),
            None => Ok(true),
        }
    }
}
