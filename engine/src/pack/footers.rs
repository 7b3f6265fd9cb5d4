//! Footers that were read lately. Duplicates come in runs, and so do reads.

use std::sync::Arc;

use super::{PackError, PackReader, read_footer};
use crate::cache::Cache;
use crate::crypto::Keys;
use crate::id::PackId;
use crate::storage::SharedStorage;

/// Bytes that one footer entry costs in memory, the vectors' slack included.
const ENTRY_COST: usize = 48;

/// Keeps the footers used last, within a bound of memory.
pub struct FooterCache {
    storage: SharedStorage,
    keys: Arc<Keys>,
    readers: Cache<PackId, Arc<PackReader>>,
}

impl FooterCache {
    /// Returns an empty cache that holds about `bytes_max` bytes at most.
    pub fn new(storage: SharedStorage, keys: Arc<Keys>, bytes_max: usize) -> Self {
        Self {
            storage,
            keys,
            readers: Cache::new(bytes_max),
        }
    }

    /// Returns a pack's footer, read now or lately.
    pub fn get(&self, pack: PackId) -> Result<Arc<PackReader>, PackError> {
        if let Some(reader) = self.readers.get(&pack) {
            return Ok(reader);
        }
        // Two threads may read the same footer at once, which costs only that.
        let reader = Arc::new(read_footer(&self.storage, &self.keys, pack)?);
        let footer = reader.footer();
        let cost = 256 + (footer.entries.len() + footer.frames.len()) * ENTRY_COST;
        self.readers.insert(pack, Arc::clone(&reader), cost);
        Ok(reader)
    }
}
