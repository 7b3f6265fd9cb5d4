//! One Cairn at a time works on a domain of this host.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::DomainError;

/// The right to work on a domain; given back when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub struct DomainLock {
    _file: File,
}

impl DomainLock {
    /// Takes the lock, or fails at once.
    ///
    /// # Errors
    ///
    /// [`DomainError::Busy`] where another process has it.
    pub fn take(run_folder: &Path, name: &str, uuid: &str) -> Result<Self, DomainError> {
        let folder = run_folder.join("domains");
        fs::create_dir_all(&folder).map_err(DomainError::file("make", &folder))?;
        let path = folder.join(format!("{uuid}.lock"));
        let options = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = options.map_err(DomainError::file("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DomainError::Busy {
                domain: name.to_owned(),
            }),
            Err(error) => Err(DomainError::file("lock", &path)(error.into())),
        }
    }
}
