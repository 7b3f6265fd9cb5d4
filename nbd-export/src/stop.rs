//! How a server is asked to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// Asks a server to end, from any thread; clones ask the same server.
#[derive(Debug, Clone)]
pub struct Stop(Arc<OwnedFd>);

impl Stop {
    /// Makes one that nobody has used.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(eventfd(0, flags)?)))
    }

    /// Asks. The server answers what it has taken in, and ends.
    pub fn stop(&self) {
        // It fails only where it was asked 2^64 times already.
        let _: rustix::io::Result<usize> = rustix::io::write(&*self.0, &[1; 8]);
    }

    /// Forgets that it was asked.
    pub(crate) fn clear(&self) {
        let _: rustix::io::Result<usize> = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
