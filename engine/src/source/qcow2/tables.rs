//! Slices of tables (L1, L2, bitmaps) on demand, through one bounded cache for a whole chain.
//!
//! Nothing of a table is kept outside the cache, so that neither a huge L1 table nor a long
//! backing chain takes memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::types::HostOffset;

/// Longest slice. As much as one read of a disk costs no more than a smaller one.
pub(super) const SLICE_LEN_MAX: u64 = 64 * 1024;
/// Bytes of slices kept. At 64 KiB clusters, the tables of 256 GiB of disk.
const CACHE_LEN_MAX: usize = 32 * 1024 * 1024;

/// A slice's words, from big-endian.
pub(super) type Slice = Arc<[u64]>;

/// Which image of the chain, and where in it.
pub(super) type SliceKey = (u32, HostOffset);

/// Two generations: what is used moves to the young one, and when that is full, the old one goes.
#[derive(Default)]
struct Generations {
    young: HashMap<SliceKey, Slice>,
    young_len: usize,
    old: HashMap<SliceKey, Slice>,
}

/// The cache. The lock is never held while reading.
#[derive(Default)]
pub(super) struct TableCache {
    generations: Mutex<Generations>,
}

impl TableCache {
    /// Returns the slice under `key`, loading its bytes if they are not at hand.
    pub fn get<E>(
        &self,
        key: SliceKey,
        load: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Slice, E> {
        if let Some(slice) = self.lock().find(key) {
            return Ok(slice);
        }
        let slice: Slice = load()?
            .as_chunks::<8>()
            .0
            .iter()
            .map(|&word| u64::from_be_bytes(word))
            .collect();
        self.lock().insert(key, Arc::clone(&slice));
        Ok(slice)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // A cache is whole between any two of its operations, whoever panicked.
        (self.generations.lock()).unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Generations {
    fn find(&mut self, key: SliceKey) -> Option<Slice> {
        if let Some(slice) = self.young.get(&key) {
            return Some(Arc::clone(slice));
        }
        let slice = self.old.remove(&key)?;
        self.insert(key, Arc::clone(&slice));
        Some(slice)
    }

    fn insert(&mut self, key: SliceKey, slice: Slice) {
        // What an entry costs beside its words matters where clusters have 512 bytes.
        const ENTRY_COST: usize = 64;
        let len = size_of_val(&*slice).saturating_add(ENTRY_COST);
        if self.young_len.saturating_add(len) > CACHE_LEN_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_len = 0;
        }
        if self.young.insert(key, slice).is_none() {
            self.young_len = self.young_len.saturating_add(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let cache = TableCache::default();
        let load = || Ok::<_, ()>(vec![7; 64 * 1024]);
        for n in 0..4096 {
            let slice = cache
                .get((0, HostOffset(n)), load)
                .expect("loading cannot fail");
            assert_eq!(slice.len(), 8192);
            let hot = cache.get((1, HostOffset(0)), || {
                if n == 0 { Ok(vec![1; 8]) } else { Err(n) }
            });
            assert_eq!(hot.as_deref(), Ok(&[0x0101_0101_0101_0101][..]));
            let kept = cache.lock();
            let kept = kept.young.values().chain(kept.old.values());
            assert!(kept.map(|slice| size_of_val(&**slice)).sum::<usize>() <= CACHE_LEN_MAX);
        }
    }
}
