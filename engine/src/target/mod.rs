//! Where restored bytes go: a raw file, a qcow2 file, a block device. Knows nothing of
//! repositories.
//!
//! A file is written beside its place under a temporary name, and takes its name when it is whole.
//! A device cannot be: an unfinished one is incomplete, and [`Target::abandon`] says so.

mod device;
pub mod durable;
mod error;
mod in_use;
mod leftover;
mod output;
mod overlay;
mod pages;
mod partial;
mod qcow2;
mod raw;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub use error::TargetError;
pub use overlay::{Below, Overlay};
pub use partial::{rename_new, temporary_name};

use crate::limits::{DISK_LEN_MAX, REGION_LEN};

/// The format of a restored file or device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetFormat {
    /// The disk's bytes as they are; holes stay unallocated.
    Raw,
    /// qcow2 version 3 with clusters of 64 KiB; holes stay unallocated. What follows the image on a
    /// device stays.
    Qcow2,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct TargetOptions {
    /// The format.
    pub format: TargetFormat,
    /// The disk's size in bytes.
    pub size: u64,
    /// Whether what is at the path already may be lost.
    pub overwrite: bool,
}

/// A disk that is being restored. Shared by worker threads; every method but the last two may be
/// called at once.
///
/// For each region that has data, in any order: [`Target::begin_region`], then
/// [`Target::write_at`] until all of its data is written, then [`Target::end_region`]. What is
/// never written reads as zeros.
pub trait Target: Send + Sync {
    /// Makes ready for a region's data: ascending ranges within the region that starts at disk
    /// offset `start`, a multiple of `limits::REGION_LEN`. All else in the region becomes a hole.
    ///
    /// # Panics
    ///
    /// If the ranges do not ascend or leave the region or the disk.
    fn begin_region(&self, start: u64, data: &[Range<u64>]) -> Result<(), TargetError>;

    /// Writes disk bytes from `offset`. Every byte of the ranges that a region began with must be
    /// written once, in pieces of any length and in any order.
    ///
    /// # Errors
    ///
    /// After an error [`Target::finish`] refuses.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError>;

    /// Says that all of a region's data is written, so that it may go to the medium early.
    fn end_region(&self, start: u64);

    /// Makes the disk whole, and gives a file its name.
    ///
    /// # Errors
    ///
    /// As [`Target::abandon`] leaves things, save that a file whose folder could not be synced may
    /// have its name already.
    ///
    /// # Durability
    ///
    /// Durable on return.
    fn finish(self: Box<Self>) -> Result<Finished, TargetError>;

    /// Gives up, and says what is left behind. Dropping a target does the same.
    fn abandon(self: Box<Self>) -> Abandoned;
}

/// A restored disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes, as a guest would see it. qcow2 rounds up to a multiple of 512; a device
    /// may be larger than the disk.
    pub size: u64,
}

/// What an unfinished restore leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Abandoned {
    /// Nothing: what was at the path before is still there.
    Nothing,
    /// A device whose old content is lost and whose new content is not complete.
    IncompleteDevice(PathBuf),
}

/// Begins a restore to a path: an existing block device, or a file that need not exist.
///
/// # Panics
///
/// If the disk is larger than [`DISK_LEN_MAX`].
pub fn create(path: &Path, options: &TargetOptions) -> Result<Box<dyn Target>, TargetError> {
    assert!(options.size <= DISK_LEN_MAX, "no recipe is for such a disk");
    let kind = match fs::metadata(path) {
        Ok(found) => Some(found.file_type()),
        Err(_) => None,
    };
    match (kind, options.format) {
        (Some(kind), TargetFormat::Raw) if kind.is_block_device() => {
            Ok(Box::new(device::DeviceTarget::open(path, options)?))
        }
        (Some(kind), TargetFormat::Qcow2) if kind.is_block_device() => {
            Ok(Box::new(qcow2::Qcow2Target::on_device(path, options)?))
        }
        (Some(kind), _) if !kind.is_file() => Err(TargetError::NotAFile {
            path: path.to_owned(),
        }),
        (_, TargetFormat::Raw) => Ok(Box::new(raw::RawTarget::create(path, options)?)),
        (_, TargetFormat::Qcow2) => Ok(Box::new(qcow2::Qcow2Target::create(path, options)?)),
    }
}

/// Requires what [`Target::begin_region`] says of its arguments.
fn check_region(size: u64, start: u64, data: &[Range<u64>]) {
    assert!(start.is_multiple_of(REGION_LEN), "{start} starts no region");
    let end = (start + REGION_LEN).min(size);
    let mut decided = start;
    for range in data {
        assert!(range.start >= decided, "ranges ascend within the region");
        assert!(range.start < range.end, "ranges hold bytes");
        assert!(range.end <= end, "ranges end within region and disk");
        decided = range.end;
    }
}
