//! Where disk bytes come from. Knows nothing of repositories.

mod error;
mod file;
mod open;
pub mod qcow2;
pub mod raw;
mod spec;

use std::ops::Range;

pub use error::SourceError;
pub use file::ReadAt;
pub use open::{format_of, open};
pub use spec::{Format, SourceSpec, SpecError};

use crate::extent::Extent;

/// One disk at one point in time. Shared by worker threads; every method may be called at once.
pub trait Source: Send + Sync {
    /// Returns the disk's size in bytes. Any number of bytes is a size; it need not be a multiple
    /// of anything.
    fn size(&self) -> u64;

    /// Returns what is known of `range` without reading it: extents in disk order that cover the
    /// range exactly, without gaps or overlaps. The range must lie within the disk.
    ///
    /// A hostile image can change its status at every 512 bytes: ask for a bounded range at a
    /// time (a few GiB), not for the whole disk, to bound the memory that the answer takes.
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError>;

    /// Fills `buf` with the disk's bytes from `offset`. The range must lie within the disk.
    ///
    /// A source that reports [`ExtentStatus::Unchanged`](crate::extent::ExtentStatus::Unchanged)
    /// and has not the bytes of such a range (see [`Source::has_unchanged`]) fails with
    /// [`SourceError::NotHere`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError>;

    /// Returns whether ranges reported as unchanged can be read here too, at the same point in
    /// time. A dirty bitmap's image can; a delta cannot.
    fn has_unchanged(&self) -> bool;
}
