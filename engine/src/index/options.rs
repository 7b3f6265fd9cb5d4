//! Where an index lies, and what it may use.

use std::path::PathBuf;
use std::time::Duration;

use crate::id::RepositoryId;
use crate::limits::MIB;

/// Memory for what a process adds before it spills to disk.
const OVERLAY_MEMORY_DEFAULT: u64 = 64 * MIB;

/// Memory for blocks of the database. Misses, which are most look-ups of a backup, need none.
const CACHE_MEMORY_DEFAULT: u64 = 32 * MIB;

/// How long a process waits for others to change the index before it does without.
const LOCK_WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// Where an index lies and what it may use.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// The folder of the index. Everything in it may be deleted while nobody uses it.
    pub dir: PathBuf,
    /// An existing folder for private files, removed when the index is dropped.
    pub temp_dir: PathBuf,
    /// Whose index it is.
    pub repository: RepositoryId,
    /// Whether the index on disk may be changed.
    pub writable: bool,
    /// Whether the index on disk is built anew where much of it is about packs that are gone. It
    /// serves as well as it is; a collection, which made it so, has the time.
    pub compacts: bool,
    /// Bytes of memory for what this process adds; the rest goes to `temp_dir`.
    pub overlay_memory: u64,
    /// Bytes of memory for blocks of the database.
    pub cache_memory: u64,
    /// How long to wait while another process changes the index.
    pub lock_wait: Duration,
}

impl IndexOptions {
    /// Returns the options of an ordinary, writable index.
    pub fn new(dir: PathBuf, temp_dir: PathBuf, repository: RepositoryId) -> Self {
        Self {
            dir,
            temp_dir,
            repository,
            writable: true,
            compacts: false,
            overlay_memory: OVERLAY_MEMORY_DEFAULT,
            cache_memory: CACHE_MEMORY_DEFAULT,
            lock_wait: LOCK_WAIT_DEFAULT,
        }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("db")
    }

    /// A file that asks the next writer to build the index anew.
    pub(super) fn condemned(&self) -> PathBuf {
        self.dir.join("damaged")
    }
}
