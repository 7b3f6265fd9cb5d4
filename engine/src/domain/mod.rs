//! Domains of a libvirt host, backed up and brought back: puts the operations together with what
//! libvirt does.

pub mod backup;
pub mod checkpoint;
pub mod define;
pub mod error;
pub mod freeze;
pub mod hook;
pub mod in_place;
pub mod instant;
pub mod lock;
pub mod memory;
mod named;
pub mod overlay;
mod pipe;
pub mod prove;
pub mod recover;
pub mod rewrite;
pub mod run_folder;
pub mod vm_name;

pub use error::DomainError;
