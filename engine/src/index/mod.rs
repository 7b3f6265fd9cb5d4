//! Content id to place in a pack: a cache, never an authority. Packs can always rebuild it.
//!
//! The index on disk is a RocksDB that everyone opens read-only. What a process adds stays with it
//! (the overlay) until it ingests all of it under a short lock. Packs that the database does not
//! know are taken in from their footers when it is opened, so it may be missing, old, damaged or
//! another repository's without anyone getting another answer. Entries whose pack is not present
//! count as absent. `docs/format.md` ("Index") has the keys and values.

mod db;
mod error;
mod find;
mod ingest;
mod lock;
mod merge;
mod open;
mod options;
mod overlay;
mod packs;
mod place;
mod take_in;

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use error::IndexError;
pub use find::{Anywhere, find_anywhere};
pub use ingest::Ingest;
pub use open::OpenReport;
pub use options::IndexOptions;
pub use place::{PackPrefix, Place};

use self::db::Db;
use self::lock::{FileLock, Sharing};
use self::overlay::Overlay;
use self::packs::Packs;
use crate::id::{ContentId, PackId};

/// How the index learns what a pack holds.
pub trait PackFooters: Sync {
    /// Why a footer cannot be read.
    type Error: Send;

    /// Returns every chunk of a pack with its place. The footer has been checked, and where the
    /// index may be written the folder that holds the pack is settled: what is built on it must
    /// survive a power cut.
    fn places(&self, pack: PackId) -> Result<Vec<(ContentId, Place)>, Self::Error>;
}

/// An open index. Shared by threads.
pub struct Index {
    options: IndexOptions,
    state: RwLock<State>,
    /// Whether the database has turned out to be unreadable in part.
    damaged: AtomicBool,
    /// What a database knew that is to be thrown away though it can be read.
    outdated: Mutex<Option<HashSet<PackId>>>,
}

struct State {
    packs: Packs,
    overlay: Overlay,
    /// `None` if there is no database, or none that can be used.
    db: Option<Db>,
}

impl Index {
    /// Returns how it was opened.
    pub(crate) fn options(&self) -> &IndexOptions {
        &self.options
    }

    /// Returns whether the index on disk has turned out to be damaged since it was opened. It will
    /// be built anew by the next writer.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    fn lock(&self, sharing: Sharing) -> Result<Option<FileLock>, IndexError> {
        let path = self.options.dir.join("lock");
        FileLock::take(&path, sharing, self.options.lock_wait).map_err(|source| IndexError::Io {
            op: "lock",
            path,
            source,
        })
    }

    /// Notes that the database must be built anew.
    fn condemn(&self) {
        if !self.damaged.swap(true, Ordering::Relaxed) && self.options.writable {
            // Where this fails, the next to stumble over the damage tries again.
            drop(fs::write(self.options.condemned(), b""));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state
            .read()
            .expect("a thread that changed the index panicked")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state
            .write()
            .expect("a thread that changed the index panicked")
    }
}
