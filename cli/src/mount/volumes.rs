//! The volumes in a snapshot's disks: partitions, logical volumes, disks without partitions.

use std::ops::Range;
use std::sync::Arc;

use cairn_engine::extent::{Extent, ExtentStatus, push_extent};
use cairn_engine::guest::tree::{self, GuestError};
use cairn_nbd_export::disk::{Disk, DiskError};

/// A range of bytes that may hold a file system.
pub struct Volume {
    /// Its name: that of its file, and of its mount point where there are several.
    pub name: String,
    /// Its bytes.
    pub disk: Arc<dyn Disk>,
}

/// The volumes of some disks.
#[derive(Default)]
pub struct Volumes {
    /// Those that can be read.
    pub found: Vec<Volume>,
    /// The others.
    pub skipped: Vec<Skipped>,
}

/// A volume that is not mounted.
#[derive(Debug)]
pub struct Skipped {
    /// The volume's name.
    pub volume: String,
    /// What it holds.
    pub kind: String,
    /// Why it was left out.
    pub reason: String,
    /// Whether it should have been mounted.
    pub is_failure: bool,
}

impl Skipped {
    /// Returns a volume that cannot be put together.
    pub fn unreadable(volume: String, error: &GuestError) -> Self {
        let mut reason = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            reason.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        Self {
            volume,
            kind: "unreadable".to_owned(),
            reason,
            is_failure: true,
        }
    }
}

/// A volume of the guest as a disk of its own.
pub struct VolumeDisk(pub Arc<dyn tree::Volume>);

impl Disk for VolumeDisk {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.0
            .read_at(offset, buf)
            .map_err(|error| DiskError::Read {
                offset,
                len: buf.len() as u64,
                source: error.into(),
            })
    }

    fn try_read_at(&self, _offset: u64, _buf: &mut [u8]) -> bool {
        false
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, DiskError> {
        let mut extents = Vec::new();
        let len = range.end.saturating_sub(range.start);
        push_extent(&mut extents, range.start, len, ExtentStatus::Data);
        Ok(extents)
    }

    fn prefetch(&self, _range: Range<u64>) {}
}
