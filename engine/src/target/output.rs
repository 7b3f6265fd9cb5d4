//! A file or device that is being written by many threads.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, fadvise};

use super::TargetError;

/// An open file or device. Remembers whether a write failed.
pub(super) struct Output {
    file: File,
    /// What users call it, not its temporary name.
    path: PathBuf,
    failed: AtomicBool,
}

impl Output {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self {
            file,
            path,
            failed: AtomicBool::new(false),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all bytes at a file offset.
    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.file.write_all_at(bytes, offset).map_err(|source| {
            self.failed.store(true, Ordering::Relaxed);
            TargetError::write(&self.path, offset, source)
        })
    }

    /// Starts to move written bytes to the medium, so that the sync at the end has little to wait
    /// for. Waits for nothing.
    pub(super) fn start_writeback(&self, range: Range<u64>) {
        // Linux starts writeback of the dirty pages in the range, and drops those that are clean:
        // a restore has no use for them. Only a hint, so a refusal means nothing.
        if let Some(len) = NonZeroU64::new(range.end.saturating_sub(range.start)) {
            let _ = fadvise(&self.file, range.start, Some(len), Advice::DontNeed);
        }
    }

    /// Makes everything written durable. Not to be tried again after a failure.
    pub(super) fn sync(&self) -> Result<(), TargetError> {
        if self.failed.swap(true, Ordering::Relaxed) {
            return Err(TargetError::PreviousFailure {
                path: self.path.clone(),
            });
        }
        self.file
            .sync_all()
            .map_err(|source| TargetError::io("sync", &self.path, source))?;
        self.failed.store(false, Ordering::Relaxed);
        Ok(())
    }
}
