//! Where disk bytes come from. Knows nothing of repositories.

pub mod bitmaps;
mod error;
mod file;
#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod limit;
mod looks;
pub mod memory;
mod nbd;
mod open;
pub mod qcow2;
pub mod raw;
mod spec;
mod watched;

use std::ops::Range;

pub use error::SourceError;
pub use file::ReadAt;
pub use limit::{Limited, RateLimit};
pub use looks::looks_like;
pub use nbd::NbdSource;
pub use open::{format_of, named_files, open, open_with};
pub use spec::{Format, Location, Origin, SourceSpec, SpecError};
pub use watched::FileState;

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

    /// Fills several buffers, each with the disk's bytes from its offset, as
    /// [`read_at`](Source::read_at) does. A source that a request takes long to reach asks for all
    /// at once.
    fn read_many(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        let mut parts = parts.iter_mut();
        parts.try_for_each(|(offset, buf)| self.read_at(*offset, buf))
    }

    /// Returns whether ranges reported as unchanged can be read here too, at the same point in
    /// time. A dirty bitmap's image can; a delta cannot.
    fn has_unchanged(&self) -> bool;

    /// Returns why extents told less than they should have, if they did: what could not be told is
    /// reported as data.
    fn untold(&self) -> Option<String> {
        None
    }

    /// Sees to it that [`written`](Source::written) tells of all that is written from now on. May
    /// take as long as it takes to bring what was written before to the disk.
    fn settle(&self) {}

    /// Returns who wrote, or may have written, to what is read here since it was opened, in words,
    /// as far as that can be seen.
    fn written(&self) -> Option<String> {
        None
    }

    /// Returns whether reads wait for another process, while a processor could do something else:
    /// then more threads than processors are of use.
    fn is_remote(&self) -> bool {
        false
    }
}
