//! Backup of a domain: all its disks at one moment, read by their changes where these are proven.

mod begin;
mod below;
mod bitmaps;
mod extras;
mod far_folder;
mod identity;
mod lineage;
mod memory;
mod offline;
mod options;
mod plan;
mod pull;
mod remote;
mod run;
mod scratch;
mod snapshot;
mod view;
mod watch;

pub use extras::{NVRAM, TPM};
pub(super) use far_folder::{is_remote_folder, remote_mark};
pub use memory::{MEMORY, MEMORY_XML};
pub(super) use offline::remove_bitmaps;
pub use options::{
    DomainBackupDone, DomainBackupOptions, Offline, Reading, ScratchOptions, TlsOptions, Way,
};
pub(super) use pull::end_job;
pub(super) use remote::Host;
pub use run::{DOMAIN_XML, back_up};
pub(super) use scratch::{ScratchKind, scratch_mark};
