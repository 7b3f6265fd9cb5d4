//! What is inside a guest's disk: partitions, volumes, file systems, files. Read-only, and wary:
//! a guest wrote every byte of it.

pub mod btrfs;
mod checksum;
pub mod detect;
pub mod ext4;
pub mod fat;
mod fields;
pub mod guard;
pub mod hurt;
pub mod lvm;
pub mod ntfs;
pub mod open;
pub mod partition;
pub mod path;
pub mod tree;
pub mod volume;
pub mod walk;
pub mod xfs;
