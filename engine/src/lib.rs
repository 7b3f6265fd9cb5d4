//! The engine of Cairn: a content-addressed, deduplicating repository of virtual machine disks.
//!
//! Modules stand in the order of their closeness to the disk, and import only those above them;
//! `docs/ARCHITECTURE.md` is the map.

mod cache;
pub mod child;
pub mod extent;
pub mod id;
pub mod image_lock;
pub mod limits;
pub mod own;
pub mod pool;
pub mod printable;
pub mod progress;
pub mod spill;
pub mod threads;

pub mod chunker;
pub mod compress;
pub mod crypto;
pub mod format;

pub mod index;
pub mod storage;

pub mod pack;
pub mod recipe;
pub mod repository;

pub mod nbd;
pub mod source;
pub mod target;

pub mod guest;

pub mod image;

pub mod analyze;
pub mod backup;
pub mod diff;
pub mod gc;
pub mod restore;
pub mod retention;
pub mod stats;
pub mod verify;

pub mod repair;

#[cfg(feature = "libvirt")]
pub mod domain;
