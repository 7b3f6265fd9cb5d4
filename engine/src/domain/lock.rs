//! One Cairn at a time works on a domain of this host.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::DomainError;
use crate::own;

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
        own::make_passage(run_folder).map_err(DomainError::file("use", run_folder))?;
        let folder = run_folder.join("domains");
        // Whoever could open the lock could hold it as well.
        own::make_private(&folder).map_err(DomainError::file("use", &folder))?;
        let path = folder.join(format!("{uuid}.lock"));
        let file = own::open_lock(&path).map_err(DomainError::file("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DomainError::Busy {
                domain: name.to_owned(),
            }),
            Err(error) => Err(DomainError::file("lock", &path)(error.into())),
        }
    }
}
