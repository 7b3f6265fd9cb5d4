//! A restored domain that runs at once: its disks are overlays over an export of the snapshot, and
//! become whole while it runs.
//!
//! What is below each disk is a read-only NBD export that Cairn serves on a unix socket whose path
//! never changes. QEMU waits for it when it is gone ([`chain::RECONNECT_SECONDS`]), so that the
//! export may be killed and started again: the guest sees a pause and no error. libvirt's block
//! pull copies what is still missing into the overlay. When no disk of the domain has the socket
//! in its chain any more, neither as it runs nor as it would start, Cairn is no longer needed, and
//! only then ([`pull::Step::Whole`]).
//!
//! What must outlive every process and a reboot is a [`Record`] in a [`StateFolder`]. The snapshot
//! is pinned in its repository from before the domain is defined until the disks are whole.

pub mod chain;
pub mod overlay;
pub mod pull;
pub mod record;
pub mod supervise;

pub use chain::{backing, set_backing};
pub use pull::{DiskState, Step};
pub use record::{InstantDisk, Record, StateFolder};
pub use supervise::{Exporter, Supervision, supervise};
