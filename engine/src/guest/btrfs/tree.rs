//! Trees of items, ordered by their keys.

use std::sync::Arc;

use super::WHAT;
use super::chunks::Chunks;
use super::superblock::Superblock;
use crate::cache::Cache;
use crate::guest::checksum::crc32c;
use crate::guest::fields::{Fields, damaged};
use crate::guest::tree::{GuestError, Volume};

const HEADER_SIZE: usize = 101;
const ITEM_SIZE: usize = 25;
const POINTER_SIZE: usize = 33;
const LEVELS_MAX: u8 = 7;

/// What the cache of nodes holds at most.
const CACHE_MAX: usize = 32 << 20;

/// The name of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Key {
    pub object: u64,
    pub kind: u8,
    pub offset: u64,
}

impl Key {
    pub const SIZE: usize = 17;

    /// Returns a key.
    pub fn new(object: u64, kind: u8, offset: u64) -> Self {
        Self {
            object,
            kind,
            offset,
        }
    }

    /// Decodes the key at an offset.
    pub fn decode(fields: Fields<'_>, at: usize) -> Result<Self, GuestError> {
        let fields = fields.from(at)?;
        Ok(Self::new(fields.le64(0)?, fields.u8(8)?, fields.le64(9)?))
    }
}

/// Takes items one after the other; `false` ends.
pub(super) type Sink<'s> = dyn FnMut(Key, &[u8]) -> Result<bool, GuestError> + 's;

/// Takes the items of one object and kind, by their offsets; `false` ends.
pub(super) type ItemSink<'s> = dyn FnMut(u64, &[u8]) -> Result<bool, GuestError> + 's;

/// Reads what lies at logical addresses: nodes of trees, and content.
pub(super) struct Tree {
    volume: Arc<dyn Volume>,
    chunks: Chunks,
    crc32c: bool,
    node_size: usize,
    nodes: Cache<u64, Arc<[u8]>>,
}

impl Tree {
    /// Opens what the superblock leads to.
    pub fn open(volume: Arc<dyn Volume>, superblock: &Superblock) -> Result<Self, GuestError> {
        let mut tree = Self {
            volume,
            chunks: Chunks::of_superblock(superblock)?,
            crc32c: superblock.crc32c,
            node_size: superblock.node_size,
            nodes: Cache::new(CACHE_MAX),
        };
        tree.chunks = Chunks::of_tree(&tree, superblock)?;
        Ok(tree)
    }

    /// Hands the items of a tree from a key on to `sink`, ascending, until it returns `false`.
    ///
    /// Keys that do not ascend are damage; that also ends the walk of a tree that contains itself.
    pub fn scan(&self, root: u64, from: Key, sink: &mut Sink<'_>) -> Result<(), GuestError> {
        let mut last = None;
        self.walk(root, None, from, &mut |key, item| {
            if last.replace(key).is_some_and(|last| last >= key) {
                return Err(damaged(WHAT, "the items of a tree are out of order"));
            }
            if key < from {
                return Ok(true);
            }
            sink(key, item)
        })
        .map(drop)
    }

    /// Returns the first item from a key on that is of that object and kind.
    pub fn first(&self, root: u64, from: Key) -> Result<Option<(Key, Vec<u8>)>, GuestError> {
        let mut found = None;
        self.scan(root, from, &mut |key, item| {
            if (key.object, key.kind) == (from.object, from.kind) {
                found = Some((key, item.to_vec()));
            }
            Ok(false)
        })?;
        Ok(found)
    }

    /// Hands all items of one object and kind to `sink`, by their offsets.
    pub fn all_of(
        &self,
        root: u64,
        (object, kind): (u64, u8),
        sink: &mut ItemSink<'_>,
    ) -> Result<(), GuestError> {
        self.scan(root, Key::new(object, kind, 0), &mut |key, item| {
            Ok((key.object, key.kind) == (object, kind) && sink(key.offset, item)?)
        })
    }

    fn walk(
        &self,
        logical: u64,
        level: Option<u8>,
        from: Key,
        sink: &mut Sink<'_>,
    ) -> Result<bool, GuestError> {
        let node = self.node(logical)?;
        let fields = Fields::new(WHAT, &node);
        let count = usize::try_from(fields.le32(96)?).unwrap_or(usize::MAX);
        let this = fields.u8(100)?;
        let nested = level.is_some();
        // A node without items could lead in circles without a key that is out of order.
        if level.is_some_and(|level| level != this) || this > LEVELS_MAX || nested && count == 0 {
            return Err(damaged(WHAT, "a node of a tree makes no sense"));
        }
        let body = fields.from(HEADER_SIZE)?;
        let entry = if this == 0 { ITEM_SIZE } else { POINTER_SIZE };
        if count.saturating_mul(entry) > body.bytes().len() {
            return Err(damaged(WHAT, "a node of a tree makes no sense"));
        }
        let start = first_of_interest(body, count, entry, from)?;
        for number in start..count {
            let at = number.saturating_mul(entry);
            let key = Key::decode(body, at)?;
            let record = body.from(at.saturating_add(Key::SIZE))?;
            let on = if let Some(below) = this.checked_sub(1) {
                self.walk(record.le64(0)?, Some(below), from, sink)?
            } else {
                let offset = usize::try_from(record.le32(0)?).unwrap_or(usize::MAX);
                let len = usize::try_from(record.le32(4)?).unwrap_or(usize::MAX);
                sink(key, body.get(offset, len)?)?
            };
            if !on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn node(&self, logical: u64) -> Result<Arc<[u8]>, GuestError> {
        if let Some(node) = self.nodes.get(&logical) {
            return Ok(node);
        }
        let (copies, left) = self.chunks.locate(logical)?;
        let wanted = u64::try_from(self.node_size).unwrap_or(u64::MAX);
        if left < wanted {
            return Err(damaged(WHAT, "a node of a tree crosses chunks"));
        }
        let mut result = Err(damaged(WHAT, "a node of a tree has no copy"));
        for copy in copies {
            result = self.checked_node(logical, copy);
            if result.is_ok() {
                break;
            }
        }
        let node = result?;
        self.nodes.insert(logical, Arc::clone(&node), node.len());
        Ok(node)
    }

    fn checked_node(&self, logical: u64, physical: u64) -> Result<Arc<[u8]>, GuestError> {
        let mut node = vec![0; self.node_size];
        self.volume.read_at(physical, &mut node)?;
        let fields = Fields::new(WHAT, &node);
        let sum_fails = self.crc32c && fields.le32(0)? != !crc32c(!0, fields.from(32)?.bytes());
        if sum_fails || fields.le64(48)? != logical {
            return Err(damaged(WHAT, "a node of a tree fails its checks"));
        }
        Ok(node.into())
    }

    /// Fills `buf` from a logical address on.
    pub fn read(&self, logical: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        let (mut at, mut rest) = (logical, buf);
        while !rest.is_empty() {
            let (copies, left) = self.chunks.locate(at)?;
            let len = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
            let copy = copies.first().copied();
            let copy = copy.ok_or_else(|| damaged(WHAT, "a chunk has no copy"))?;
            self.volume.read_at(copy, now)?;
            rest = later;
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}

/// Returns the last entry of a node that is not beyond `from`, where the search goes on.
fn first_of_interest(
    body: Fields<'_>,
    count: usize,
    entry: usize,
    from: Key,
) -> Result<usize, GuestError> {
    let (mut low, mut high) = (0_usize, count);
    while low < high {
        let middle = low.midpoint(high);
        if Key::decode(body, middle.saturating_mul(entry))? <= from {
            low = middle.saturating_add(1);
        } else {
            high = middle;
        }
    }
    Ok(low.saturating_sub(1))
}
