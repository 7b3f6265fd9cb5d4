//! The one seam to disks and networks: named objects, written atomically, and sessions.
//!
//! [`Storage`] asks for nothing that an object store could not give. What is durable when, and in
//! which order things must be written, is specified in `docs/format.md` ("Writing order"); why
//! processes do not disturb one another is argued in `docs/concurrency.md`.
//!
//! [`Folder`] is the local kind. It stands on a narrower seam, [`FileSystem`], so that the code
//! that orders writes and fsyncs is tested over a simulated disk ([`sim`]) that loses power.

mod atomic;
mod contract;
mod document;
mod error;
mod folder;
mod fs;
mod handles;
mod name;
mod real;
mod reserve;
mod session;
pub mod sim;

pub use contract::{
    CollectionLock, Existing, Listed, SeenSession, Session, SharedStorage, Storage, Upload,
};
pub use document::{make_private_folder, replace_file, sync_file};
pub use error::StorageError;
pub use folder::Folder;
pub use fs::{Entry, EntryKind, FileSystem, LockMode, OpenFile, RenameMode};
pub use name::{Area, Name};
pub(crate) use real::is_shared;
pub use real::{RealFile, RealFs};
