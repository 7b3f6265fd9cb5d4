//! What is in use is not written: QEMU's locks are taken as QEMU takes them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::TargetError;
use crate::image_lock::{Held, ImageLock};

/// The lock on what is about to be overwritten or replaced. While it is held, no QEMU opens it.
pub(super) struct InUse {
    _lock: ImageLock,
    device: u64,
    inode: u64,
}

impl InUse {
    /// Locks what is at a path; `None` where nothing is.
    ///
    /// # Errors
    ///
    /// [`TargetError::InUse`] names who holds it.
    pub(super) fn lock(path: &Path) -> Result<Option<Self>, TargetError> {
        let Ok(found) = fs::metadata(path) else {
            return Ok(None);
        };
        if !found.file_type().is_block_device() && !found.is_file() {
            return Ok(None);
        }
        let taken = ImageLock::write(path);
        match taken.map_err(|source| TargetError::io("lock", path, source))? {
            Ok(lock) => Ok(Some(Self {
                _lock: lock,
                device: found.dev(),
                inode: found.ino(),
            })),
            Err(Held { by }) => Err(TargetError::InUse {
                path: path.to_owned(),
                by,
            }),
        }
    }

    /// Returns whether a path still names what is locked.
    pub(super) fn is_of(&self, path: &Path) -> bool {
        let found = fs::metadata(path);
        found.is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }
}
