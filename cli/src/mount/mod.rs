//! The file systems inside a snapshot's disks, mounted.
//!
//! Each volume (a partition, a logical volume, a disk without partitions) is a file of a FUSE file
//! system in a private run folder, backed by the snapshot with a copy-on-write layer above it. A
//! loop device makes a block device of the file, and the kernel mounts that, read-only. What is no
//! file system never becomes a block device, so nothing on the host finds a guest's physical
//! volumes or encrypted partitions, and activates them.
//!
//! What there is to take down is read from the kernel's own tables and never from records, so a
//! process that was killed at any moment leaves nothing that `cairn umount` does not find.
//!
//! This process must not wait for its own FUSE threads in a system call that cannot be
//! interrupted: killed there, it would wait for threads that are gone. Whatever reads through the
//! loop devices (mounting, unmounting, probing) is therefore done by another program.

pub mod background;
pub mod disks;
pub mod error;
pub mod serve;
pub mod teardown;

mod file_systems;
mod fuse;
mod loop_device;
mod mount_table;
pub mod place;
pub mod run_folder;
mod tools;
mod users;
mod volumes;
