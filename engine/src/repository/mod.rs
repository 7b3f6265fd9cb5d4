//! A repository that is open: its settings, keys, storage and index, in one place.

mod collection;
mod contents;
mod error;
mod fetch;
pub mod grace;
mod hot;
mod intake;
mod keys;
mod memory;
mod moving;
mod notes;
mod open;
mod process;
pub mod reference;
mod search;
mod snapshots;
mod spare;
mod verified;

pub use contents::{Access, Contents};
pub use error::RepositoryError;
pub use fetch::{Fetcher, Sink};
pub use intake::{Intake, IntakeStats};
pub use keys::KeySlotInfo;
pub use memory::SeenSnapshot;
pub(crate) use moving::{MovedFrame, Mover};
pub use notes::{Proof, SnapshotState};
pub(crate) use open::read_config;
pub use open::{InitOptions, OpenOptions, Repository};
pub(crate) use process::host_name;
use process::session_document;
pub use search::Copies;
pub(crate) use search::weightiest;
pub use snapshots::{Snapshot, SnapshotList, UnreadableSnapshot};
pub use spare::PutBack;
pub use verified::ALL_CHUNKS;
