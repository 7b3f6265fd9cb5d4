//! The lock that whoever changes the index holds, for as long as it takes to ingest.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// How often a lock that someone else holds is asked for again.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A held lock; let go when dropped, and by the system when the process ends.
#[derive(Debug)]
pub(super) struct FileLock {
    _file: File,
}

/// Who may hold a lock at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Any number, to open the database while nobody changes it.
    Shared,
    /// One, to change the database.
    Exclusive,
}

impl FileLock {
    /// Takes the lock on a file, which is made if it is missing and `sharing` is exclusive.
    /// Returns `None` if others hold it for longer than `wait`.
    pub(super) fn take(path: &Path, sharing: Sharing, wait: Duration) -> io::Result<Option<Self>> {
        let (file, operation) = match sharing {
            Sharing::Shared => (File::open(path)?, FlockOperation::NonBlockingLockShared),
            Sharing::Exclusive => (
                File::options()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(path)?,
                FlockOperation::NonBlockingLockExclusive,
            ),
        };
        let asked = Instant::now();
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if asked.elapsed() >= wait {
                return Ok(None);
            }
            std::thread::sleep(ASK_EVERY);
        }
    }
}
