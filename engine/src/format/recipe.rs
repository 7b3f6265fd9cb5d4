//! Recipe nodes. Specified in `docs/format.md`, "Recipe".
//!
//! One node has exactly one encoding: whatever decodes is what encoding gives again, so that equal
//! disks have equal recipes.

use super::FormatError;
use super::cursor::{Cursor, at_most, in_range};
use crate::id::{ChunkId, NodeId};
use crate::limits::{CHUNK_LEN_MAX, LEAF_CHUNKS_MAX, NODE_FANOUT, NODE_LEN_MAX, NODE_LEVEL_MAX};

/// The encoding of the empty leaf: the root of every disk that is all hole. It is never stored.
pub const EMPTY_LEAF: [u8; 8] = [0; 8];

/// A node of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The chunks that start in one window.
    Leaf(Leaf),
    /// The non-empty nodes of the level below.
    Inner(Inner),
}

/// The chunks that start in one window of a disk, in disk order. What none covers is a hole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaf {
    /// The chunks.
    pub chunks: Vec<LeafChunk>,
}

/// A chunk in its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafChunk {
    /// First byte, from the window's start.
    pub offset: u32,
    /// Length in bytes. The last chunk of a window may reach into the next.
    pub len: u32,
    /// The chunk.
    pub id: ChunkId,
}

/// A node above the leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Levels above the leaves: 1 to 4.
    pub level: u8,
    /// The children that are not empty, in disk order.
    pub children: Vec<Child>,
}

/// A child of an inner node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// Its place among the 256 children.
    pub slot: u8,
    /// The child.
    pub id: NodeId,
    /// Bytes of all chunks below it, repeated ones counted each time.
    pub data_bytes: u64,
    /// Number of all chunks below it, counted the same way.
    pub chunk_count: u64,
}

impl Node {
    /// Encodes a node of a disk with windows of `window` bytes.
    ///
    /// # Errors
    ///
    /// A node that breaks a rule of the format.
    pub fn encode(&self, window: u64) -> Result<Vec<u8>, FormatError> {
        self.check(window)?;
        let (level, count) = match self {
            Self::Leaf(leaf) => (0, leaf.chunks.len()),
            Self::Inner(inner) => (inner.level, inner.children.len()),
        };
        let count = u32::try_from(count).expect("checked against its limit");
        let mut bytes = vec![level, 0, 0, 0];
        bytes.extend_from_slice(&count.to_le_bytes());
        match self {
            Self::Leaf(leaf) => leaf.encode_columns(&mut bytes),
            Self::Inner(inner) => inner.encode_columns(&mut bytes),
        }
        Ok(bytes)
    }

    /// Decodes a node of a disk with windows of `window` bytes. Any encoding but the one that
    /// [`Node::encode`] gives is refused.
    pub fn decode(bytes: &[u8], window: u64) -> Result<Self, FormatError> {
        at_most(
            "length of a recipe node",
            bytes.len() as u64,
            NODE_LEN_MAX as u64,
        )?;
        let mut cursor = Cursor::new("recipe node", bytes);
        let level = cursor.u8()?;
        cursor.reserved::<3>()?;
        let count = cursor.u32()?;
        let node = if level == 0 {
            Self::Leaf(Leaf::decode_columns(&mut cursor, count)?)
        } else {
            Self::Inner(Inner::decode_columns(&mut cursor, level, count)?)
        };
        cursor.finish()?;
        node.check(window)?;
        Ok(node)
    }

    fn check(&self, window: u64) -> Result<(), FormatError> {
        match self {
            Self::Leaf(leaf) => leaf.check(window),
            Self::Inner(inner) => inner.check(window),
        }
    }
}

impl Leaf {
    fn check(&self, window: u64) -> Result<(), FormatError> {
        at_most(
            "chunks of a leaf",
            self.chunks.len() as u64,
            LEAF_CHUNKS_MAX as u64,
        )?;
        let mut covered = 0;
        for chunk in &self.chunks {
            let offset = u64::from(chunk.offset);
            in_range(
                "length of a chunk",
                chunk.len.into(),
                1,
                CHUNK_LEN_MAX.into(),
            )?;
            at_most("offset in a window", offset, window.saturating_sub(1))?;
            if offset < covered {
                return Err(FormatError::Malformed {
                    rule: "the chunks of a leaf must be in order and apart",
                });
            }
            covered = offset.saturating_add(chunk.len.into());
        }
        Ok(())
    }

    fn encode_columns(&self, bytes: &mut Vec<u8>) {
        let chunks = &self.chunks;
        bytes.reserve_exact(chunks.len().saturating_mul(40));
        bytes.extend(chunks.iter().flat_map(|chunk| chunk.offset.to_le_bytes()));
        bytes.extend(chunks.iter().flat_map(|chunk| chunk.len.to_le_bytes()));
        for chunk in chunks {
            bytes.extend_from_slice(chunk.id.as_bytes());
        }
    }

    fn decode_columns(cursor: &mut Cursor<'_>, count: u32) -> Result<Self, FormatError> {
        at_most("chunks of a leaf", count.into(), LEAF_CHUNKS_MAX as u64)?;
        let offsets = cursor.column::<4>(count as usize)?;
        let lens = cursor.column::<4>(count as usize)?;
        let ids = cursor.column::<32>(count as usize)?;
        let rows = offsets.iter().zip(lens).zip(ids);
        let chunks = rows.map(|((offset, len), id)| LeafChunk {
            offset: u32::from_le_bytes(*offset),
            len: u32::from_le_bytes(*len),
            id: ChunkId::from_bytes(*id),
        });
        Ok(Self {
            chunks: chunks.collect(),
        })
    }
}

impl Inner {
    fn check(&self, window: u64) -> Result<(), FormatError> {
        in_range(
            "level of a recipe node",
            self.level.into(),
            1,
            NODE_LEVEL_MAX.into(),
        )?;
        in_range(
            "children of a recipe node",
            self.children.len() as u64,
            1,
            NODE_FANOUT,
        )?;
        // A child's chunks start within what it covers; the last may reach beyond.
        let below = u32::from(self.level).saturating_sub(1);
        let span = window.saturating_mul(NODE_FANOUT.saturating_pow(below));
        let data_max = span.saturating_add(CHUNK_LEN_MAX.into());
        let mut next_slot = 0;
        for child in &self.children {
            in_range("data bytes of a child", child.data_bytes, 1, data_max)?;
            in_range("chunks of a child", child.chunk_count, 1, child.data_bytes)?;
            if u16::from(child.slot) < next_slot {
                return Err(FormatError::Malformed {
                    rule: "the children of a node must be in order, one for each place",
                });
            }
            next_slot = u16::from(child.slot).saturating_add(1);
        }
        Ok(())
    }

    fn encode_columns(&self, bytes: &mut Vec<u8>) {
        let children = &self.children;
        bytes.reserve_exact(children.len().saturating_mul(49));
        bytes.extend(children.iter().map(|child| child.slot));
        bytes.extend(
            children
                .iter()
                .flat_map(|child| child.data_bytes.to_le_bytes()),
        );
        bytes.extend(
            children
                .iter()
                .flat_map(|child| child.chunk_count.to_le_bytes()),
        );
        for child in children {
            bytes.extend_from_slice(child.id.as_bytes());
        }
    }

    fn decode_columns(cursor: &mut Cursor<'_>, level: u8, count: u32) -> Result<Self, FormatError> {
        in_range("children of a recipe node", count.into(), 1, NODE_FANOUT)?;
        let count = count as usize;
        let slots = cursor.take(count)?;
        let data_bytes = cursor.column::<8>(count)?;
        let chunk_counts = cursor.column::<8>(count)?;
        let ids = cursor.column::<32>(count)?;
        let rows = slots.iter().zip(data_bytes).zip(chunk_counts).zip(ids);
        let children = rows.map(|(((slot, data_bytes), chunk_count), id)| Child {
            slot: *slot,
            id: NodeId::from_bytes(*id),
            data_bytes: u64::from_le_bytes(*data_bytes),
            chunk_count: u64::from_le_bytes(*chunk_count),
        });
        Ok(Self {
            level,
            children: children.collect(),
        })
    }
}

#[cfg(test)]
mod tests;
