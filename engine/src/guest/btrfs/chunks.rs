//! Where on the volume logical addresses are.

use std::collections::BTreeMap;

use super::WHAT;
use super::superblock::Superblock;
use super::tree::{Key, Tree};
use crate::guest::fields::{Fields, damaged, unsupported};
use crate::guest::tree::GuestError;

const CHUNK_ITEM: u8 = 228;
const STRIPE_SIZE: usize = 32;

/// Chunks are of some MiB at least: this many are more than any disk has.
const CHUNKS_MAX: usize = 1 << 20;

const PROFILES: [(u64, &str); 4] = [
    (1 << 3, "RAID 0"),
    (1 << 6, "RAID 10"),
    (1 << 7, "RAID 5"),
    (1 << 8, "RAID 6"),
];

/// A run of logical addresses.
#[derive(Debug, Clone)]
struct Chunk {
    len: u64,
    /// Where its copies on this volume start.
    copies: Vec<u64>,
    /// Why it cannot be read, where it cannot.
    unsupported: Option<&'static str>,
}

/// All chunks, by their first logical address.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    device: u64,
    by_start: BTreeMap<u64, Chunk>,
}

impl Chunks {
    /// Returns the chunks that the superblock itself names: those of the tree of chunks.
    pub fn of_superblock(superblock: &Superblock) -> Result<Self, GuestError> {
        let mut chunks = Self {
            device: superblock.device,
            by_start: BTreeMap::new(),
        };
        let mut fields = Fields::new(WHAT, &superblock.system_chunks);
        while !fields.bytes().is_empty() {
            let key = Key::decode(fields, 0)?;
            let item = fields.from(Key::SIZE)?;
            let stripes = usize::from(item.le16(44)?);
            let len = stripes.saturating_mul(STRIPE_SIZE).saturating_add(48);
            chunks.add(key.offset, Fields::new(WHAT, item.get(0, len)?))?;
            fields = item.from(len)?;
        }
        Ok(chunks)
    }

    /// Returns all chunks: those that the tree of chunks has.
    pub fn of_tree(tree: &Tree, superblock: &Superblock) -> Result<Self, GuestError> {
        let mut chunks = Self::of_superblock(superblock)?;
        tree.scan(superblock.chunk_root, Key::default(), &mut |key, item| {
            if key.kind == CHUNK_ITEM {
                chunks.add(key.offset, Fields::new(WHAT, item))?;
            }
            Ok(true)
        })?;
        Ok(chunks)
    }

    fn add(&mut self, start: u64, item: Fields<'_>) -> Result<(), GuestError> {
        let (len, profile) = (item.le64(0)?, item.le64(24)?);
        let stripes = usize::from(item.le16(44)?);
        let mut copies = Vec::new();
        for number in 0..stripes {
            let stripe = item.from(number.saturating_mul(STRIPE_SIZE).saturating_add(48))?;
            if stripe.le64(0)? == self.device {
                copies.push(stripe.le64(8)?);
            }
        }
        let striped = PROFILES.iter().find(|(bit, _)| profile & bit != 0);
        let unsupported = match striped {
            // One stripe alone is a run.
            Some((_, name)) if stripes > 1 => Some(*name),
            _ if copies.is_empty() => Some("more than one device"),
            _ => None,
        };
        if start.checked_add(len).is_none() || self.by_start.len() >= CHUNKS_MAX {
            return Err(damaged(WHAT, "a chunk makes no sense"));
        }
        let chunk = Chunk {
            len,
            copies,
            unsupported,
        };
        self.by_start.insert(start, chunk);
        Ok(())
    }

    /// Returns where the copies of the bytes at a logical address are, and how many follow there.
    pub fn locate(&self, logical: u64) -> Result<(Vec<u64>, u64), GuestError> {
        let missing = || damaged(WHAT, "an address lies in no chunk");
        let (start, chunk) = self
            .by_start
            .range(..=logical)
            .next_back()
            .ok_or_else(missing)?;
        let within = logical.saturating_sub(*start);
        let left = chunk.len.checked_sub(within).filter(|left| *left > 0);
        let left = left.ok_or_else(missing)?;
        if let Some(feature) = chunk.unsupported {
            return Err(unsupported(WHAT, feature));
        }
        let copies = chunk.copies.iter().map(|copy| copy.saturating_add(within));
        Ok((copies.collect(), left))
    }
}
