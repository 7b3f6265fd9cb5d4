//! The XML that libvirt speaks: a tree to read and to change, and what is read from it.

mod backup;
mod disks;
mod error;
mod tree;

pub use backup::{BackupDisk, BackupJob, BackupServer, Checkpoint, checkpoint_xml};
pub use disks::{DiskSource, DomainDescription, DomainDisk, SecurityLabel};
pub use error::XmlError;
pub use tree::{Element, Node};
