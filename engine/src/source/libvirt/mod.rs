//! Domains of a libvirt host: what Cairn asks libvirt for, and the XML that it speaks.
//!
//! Knows nothing of repositories. The `virt` crate serves where it can; the calls that it lacks
//! (backup jobs, checkpoints, block jobs, freezing) are in `ffi`. The library is loaded by
//! `library`; these two have all of the unsafe code.

mod agent;
mod connection;
mod domain;
mod error;
mod events;
mod ffi;
mod jobs;
mod library;
pub mod xml;

pub use crate::image_lock::ImageLock;
pub use agent::{AgentCommand, AgentOutput};
pub use connection::{Connection, Transport};
pub use domain::{Domain, DomainState, SnapshotKind};
pub use error::{LibvirtError, Reason};
pub use jobs::{BlockJob, CheckpointDescription, JobProgress};
