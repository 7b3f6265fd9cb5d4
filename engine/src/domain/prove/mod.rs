//! Proves that a snapshot boots: runs it as a throw-away domain, and asks its guest.
//!
//! The domain has a name and a UUID of its own and only what [`allow`] lets in. Its disks are
//! empty qcow2 overlays over a read-only export of the snapshot, so that nothing is copied, and
//! nothing that the guest writes reaches the repository. It has no network.
//!
//! What a proof makes lies in two folders, see [`folder`]. Both, and the domain, go when the proof
//! ends, however it ends; after a kill the next proof removes them ([`folder::sweep`]).

pub mod allow;
pub mod console;
pub mod error;
pub mod folder;
pub mod machine;
pub mod prepare;

pub use allow::{Accel, Allow, ThrowAway};
pub use error::ProveError;
pub use folder::{ProveFolder, sweep};
pub use machine::{Failure, Machine, Seen, Watch};
pub use prepare::{Prepared, prepare};
