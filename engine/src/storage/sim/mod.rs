//! A simulated disk, for tests of whatever is built on storage.
//!
//! It lives in memory, does the same thing whenever it is given the same seed and the same calls,
//! and keeps a log of every change. It can fail any of them ([`SimFs::inject`]), kill a process
//! ([`SimFs::kill`]), and rebuild what a power cut after any of them would leave
//! ([`SimFs::crash_image`]). It can also lie about fsync ([`SimFs::pretend`]), to show that the
//! test that uses it would notice.
//!
//! ```
//! use cairn_engine::storage::sim::SimFs;
//! use cairn_engine::storage::{Existing, Folder, Name, Storage};
//!
//! let disk = SimFs::new(1);
//! let folder = Folder::create(disk.clone())?;
//! let session = folder.open_session(b"{}")?;
//! folder.put(session.id(), &Name::Config, b"settings", Existing::Refuse)?;
//!
//! let after = Folder::open(disk.crash_image(disk.op_count(), 7))?;
//! assert_eq!(after.read(&Name::Config, 100)?, b"settings");
//! # Ok::<(), cairn_engine::storage::StorageError>(())
//! ```

mod calls;
mod disk;
mod fault;
mod process;
mod random;
mod state;

pub use self::calls::SimFile;
pub use self::fault::{Fault, FaultKind, FaultOn, Lie};
pub use self::process::SimFs;

#[cfg(test)]
mod tests;
