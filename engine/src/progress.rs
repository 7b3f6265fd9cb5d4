//! What a running operation tells its caller, and how the caller stops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A request to stop, shared by everyone at work. Cheap to clone and to ask.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks everyone who holds a clone to stop at the next chance. Safe in a signal handler.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether someone asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns the flag itself, for a signal handler's registration.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// Counters of a running operation, read by a display while workers add to them.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of work known so far; grows while the work is being planned.
    pub total_bytes: AtomicU64,
    /// Bytes of work done, holes included.
    pub done_bytes: AtomicU64,
    /// Bytes read from sources or packs.
    pub read_bytes: AtomicU64,
    /// Bytes written to targets; of a backup those that are new, before they are compressed.
    pub written_bytes: AtomicU64,
    /// Whether nobody knows the total before all is done.
    pub is_open: AtomicBool,
}

impl Progress {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }
}
