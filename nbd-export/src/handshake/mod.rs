//! The handshake: fixed newstyle, until a client and the server agree on an export.
//!
//! ```text
//! greet ──> options ──STARTTLS──> (the caller goes over to TLS) ──> options from a clean slate
//!              │
//!              ├──GO, EXPORT_NAME──> Agreement ──> transmission
//!              └──ABORT, end, anything that breaks the rules──> no agreement
//! ```
//!
//! Bytes are taken from the stream exactly as far as a message goes, so that nothing that came
//! before TLS is ever taken for something that came under it. A client can hold the server up
//! only as long as the caller lets it (see [`crate::server`]), and by [`OPTIONS_MAX`] options of
//! [`OPTION_LEN_MAX`] bytes.

mod error;
mod haggler;
mod meta;
mod option;

use std::sync::Arc;

use cairn_engine::nbd::wire::flag;

use crate::context::Context;
use crate::exports::Export;

pub use error::HandshakeError;
pub use haggler::{Greeting, greet, haggle};

/// Options that one client may send. Whoever asks about a thousand exports needs two thousand.
pub const OPTIONS_MAX: u32 = 4096;
/// Data of one option that are looked at, in bytes: several hundred names of contexts.
pub const OPTION_LEN_MAX: u32 = 64 * 1024;
/// Data of one option that are skipped, in bytes; what is longer is no option.
const OPTION_LEN_SKIPPED_MAX: u32 = 4 * 1024 * 1024;

/// How a client speaks after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Simple replies only.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers, which imply structured replies.
    Extended,
}

/// What a client and the server agreed on.
#[derive(Clone)]
pub struct Agreement {
    /// The export.
    pub export: Arc<Export>,
    /// How replies look.
    pub mode: Mode,
    /// Metadata contexts; the id of each is its place.
    pub contexts: Vec<Context>,
}

impl Agreement {
    /// Returns the transmission flags that the client was told.
    pub fn flags(&self) -> u16 {
        let mut flags = self.export.flags();
        if self.mode >= Mode::Structured {
            flags |= flag::SEND_DF;
        }
        if self.takes_status_payload() {
            flags |= flag::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }

    /// Returns whether a request for block status may choose among the contexts.
    pub fn takes_status_payload(&self) -> bool {
        self.mode == Mode::Extended && !self.contexts.is_empty()
    }
}

/// Where TLS stands on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// The server does without.
    Off,
    /// It must come before anything else.
    Required,
    /// It is there.
    On,
}

/// How a handshake went on.
pub enum Step {
    /// Now go over to TLS, and call again with [`Tls::On`].
    StartTls,
    /// Requests follow.
    Transmit(Agreement),
    /// The client wants no more.
    End,
}
