//! What a server tells whoever runs it. What clients are told is less.

use std::io;
use std::path::Path;

use crate::disk::DiskError;

/// Something that happened while serving.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A client agreed on an export; its requests follow.
    Opened {
        /// The export.
        export: &'a str,
        /// Who it is.
        peer: &'a str,
    },
    /// A client did not come as far as that.
    Refused {
        /// Who it is.
        peer: &'a str,
        /// Why.
        error: &'a (dyn std::error::Error + 'static),
    },
    /// A client that had agreed is gone; without an error, in good order.
    Closed {
        /// The export.
        export: &'a str,
        /// Who it was.
        peer: &'a str,
        /// Why, if not in good order.
        error: Option<&'a io::Error>,
    },
    /// A request failed because of the disk. The client is told too.
    DiskFailed {
        /// The export.
        export: &'a str,
        /// Why.
        error: &'a DiskError,
    },
    /// Another process has an overlay open, and it is waited for.
    OverlayAwaited {
        /// The overlay.
        path: &'a Path,
    },
    /// No connection could be taken in; tried again soon.
    AcceptFailed {
        /// Why.
        error: &'a io::Error,
    },
}

/// Takes events in, from any thread.
pub type Log = dyn Fn(&Event<'_>) + Send + Sync;
