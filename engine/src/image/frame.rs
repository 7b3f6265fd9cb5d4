//! Decoded frames, with what of them was compared with its id.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cache::ImageCache;
use crate::chunker::ChunkRef;
use crate::crypto::Keys;
use crate::pack::PackReader;

/// Where a chunk lies: pack (by its number in the process), frame and slot, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot(u64);

impl Spot {
    /// Stands for "not looked up yet". No pack has the last number.
    pub(super) const UNKNOWN: Self = Self(u64::MAX);

    pub(super) fn new(pack: u32, frame: u16, slot: u16) -> Self {
        Self(u64::from(pack) << 32 | u64::from(frame) << 16 | u64::from(slot))
    }

    pub(super) fn from_word(word: u64) -> Option<Self> {
        (word != u64::MAX).then_some(Self(word))
    }

    pub(super) fn word(self) -> u64 {
        self.0
    }

    /// Returns what tells its frame from all others.
    pub(super) fn frame_key(self) -> u64 {
        self.0 >> 16
    }

    pub(super) fn slot(self) -> usize {
        usize::try_from(self.0 & 0xffff).expect("sixteen bits")
    }
}

/// Returns the pack's number and the frame's of what [`Spot::frame_key`] gives.
pub(super) fn parts_of_key(key: u64) -> (u32, u16) {
    let pack = u32::try_from(key >> 16).expect("a key has 48 bits");
    (pack, u16::try_from(key & 0xffff).expect("sixteen bits"))
}

/// The plain bytes of a frame.
pub(super) struct Frame {
    plain: Vec<u8>,
    /// Where each slot begins, and where the last one ends.
    starts: Box<[u32]>,
    /// One bit for each slot that was compared with its id.
    checked: Box<[AtomicU64]>,
}

impl Frame {
    /// Takes the plain bytes of a frame of this pack.
    pub(super) fn new(reader: &PackReader, frame: u16, plain: Vec<u8>) -> Self {
        let slots = reader.frame(u32::from(frame));
        let slots = slots.map_or(&[][..], |entry| reader.footer().frame_entries(entry));
        let mut end = 0_u32;
        let ends = slots.iter().map(|slot| {
            end = end.saturating_add(slot.len);
            end
        });
        let starts: Box<[u32]> = std::iter::once(0).chain(ends).collect();
        let checked = (0..slots.len().div_ceil(64)).map(|_| AtomicU64::new(0));
        Self {
            plain,
            starts,
            checked: checked.collect(),
        }
    }

    /// Returns how many chunks there are.
    pub(super) fn slots(&self) -> usize {
        self.starts.len() - 1
    }

    /// Returns the buffer of the plain bytes, to be filled again.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.plain
    }

    /// Returns what this takes in memory.
    pub(super) fn cost(&self) -> usize {
        256 + self.plain.capacity() + 4 * self.starts.len() + 8 * self.checked.len()
    }

    /// Returns a chunk's bytes, compared with its id now or before; `None` where they differ.
    pub(super) fn chunk(&self, slot: usize, chunk: &ChunkRef, keys: &Keys) -> Option<&[u8]> {
        let bytes = self.slot(slot, chunk)?;
        if !self.is_checked(slot) {
            if keys.chunk_id(bytes) != chunk.id {
                return None;
            }
            let word = self.checked.get(slot / 64)?;
            word.fetch_or(1 << (slot % 64), Ordering::Relaxed);
        }
        Some(bytes)
    }

    /// Returns a chunk's bytes if they were compared with its id before.
    pub(super) fn checked_chunk(&self, slot: usize, chunk: &ChunkRef) -> Option<&[u8]> {
        let bytes = self.slot(slot, chunk)?;
        self.is_checked(slot).then_some(bytes)
    }

    fn slot(&self, slot: usize, chunk: &ChunkRef) -> Option<&[u8]> {
        let (start, end) = (self.starts.get(slot)?, self.starts.get(slot + 1)?);
        let bytes = self.plain.get(*start as usize..*end as usize)?;
        (bytes.len() == chunk.len as usize).then_some(bytes)
    }

    fn is_checked(&self, slot: usize) -> bool {
        // The bytes never change, so the bit alone says all: no order with other memory is needed.
        let word = self.checked.get(slot / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (slot % 64)) != 0)
    }
}

/// The frame that was used last, at hand for the next chunk.
pub(super) struct Held<'c> {
    cache: &'c ImageCache,
    frame: Option<(u64, Arc<Frame>)>,
}

impl<'c> Held<'c> {
    /// Returns none yet.
    pub(super) fn new(cache: &'c ImageCache) -> Self {
        Self { cache, frame: None }
    }

    /// Returns the frame of `key`: the one at hand, or the one that `find` gives.
    pub(super) fn get<E>(
        &mut self,
        key: u64,
        find: impl FnOnce() -> Result<Arc<Frame>, E>,
    ) -> Result<&Arc<Frame>, E> {
        let held = match self.frame.take() {
            Some((held, frame)) if held == key => (held, frame),
            other => {
                self.let_go(other);
                (key, find()?)
            }
        };
        Ok(&self.frame.insert(held).1)
    }

    fn let_go(&self, held: Option<(u64, Arc<Frame>)>) {
        if let Some((_, frame)) = held {
            self.cache.recycle(frame);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let held = self.frame.take();
        self.let_go(held);
    }
}
