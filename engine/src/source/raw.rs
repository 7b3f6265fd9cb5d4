//! Raw image files and block devices.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::file::{Access, DiskFile, ReadAt};
use super::{Source, SourceError};
use crate::extent::{Extent, ExtentStatus, push_extent};
use crate::limits::DISK_LEN_MAX;

/// A raw disk: the file's bytes are the disk's.
#[derive(Debug)]
pub struct RawSource {
    file: DiskFile,
}

impl RawSource {
    /// Opens the raw image file or block device at `path`, to be read from end to end.
    ///
    /// # Errors
    ///
    /// [`SourceError::NotADisk`], [`SourceError::InUse`], [`SourceError::Unsupported`] for a disk
    /// longer than [`DISK_LEN_MAX`], or what the system says.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        RawSource::open_though(path, false)
    }

    /// Opens the same, though it may be open for writing elsewhere, if that is wanted.
    pub(super) fn open_though(path: &Path, may_be_written: bool) -> Result<Self, SourceError> {
        RawSource::from_file(DiskFile::open(path, Access::Sequential, may_be_written)?)
    }

    /// Takes an opened file as a raw disk.
    pub(super) fn from_file(file: DiskFile) -> Result<Self, SourceError> {
        if file.size() > DISK_LEN_MAX {
            return Err(SourceError::Unsupported {
                path: file.path().to_path_buf(),
                feature: format!("a disk of more than {DISK_LEN_MAX} bytes"),
            });
        }
        Ok(RawSource { file })
    }

    /// Appends the extents of `range` to `extents`.
    pub(super) fn append_extents(
        &self,
        range: Range<u64>,
        extents: &mut Vec<Extent>,
    ) -> Result<(), SourceError> {
        let mut place = range.start;
        while place < range.end {
            let data = match self.file.next_data(place) {
                Ok(Some(data)) => data.start.min(range.end)..data.end.min(range.end),
                Ok(None) => range.end..range.end,
                Err(source) => return Err(self.read_failed(place, source)),
            };
            push_extent(extents, place, data.start - place, ExtentStatus::Zero);
            push_extent(
                extents,
                data.start,
                data.end - data.start,
                ExtentStatus::Data,
            );
            place = data.end;
        }
        Ok(())
    }

    fn read_failed(&self, offset: u64, source: io::Error) -> SourceError {
        SourceError::Read {
            path: self.file.path().to_path_buf(),
            offset,
            source,
        }
    }
}

impl Source for RawSource {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        assert!(range.end <= self.size());
        let mut extents = Vec::new();
        self.append_extents(range, &mut extents)?;
        Ok(extents)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        (self.file.read_exact_at(offset, buf)).map_err(|source| self.read_failed(offset, source))
    }

    fn has_unchanged(&self) -> bool {
        false
    }

    fn settle(&self) {
        self.file.watched().settle();
    }

    fn written(&self) -> Option<String> {
        self.file.watched().written()
    }
}
