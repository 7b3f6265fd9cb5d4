//! Why a server cannot be read from.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::nbd::tls::TlsError;
use crate::nbd::wire::{STRING_LEN_MAX, WireError, errno, rep};

/// A failure of the server, of the way to it, or of what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody answers at the address.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection could not be put under TLS.
    #[error("cannot put the connection under TLS")]
    Tls(#[from] TlsError),
    /// The server has no TLS.
    #[error("the server does not offer TLS ({reply})")]
    NoTls {
        /// Its answer.
        reply: OptionError,
    },
    /// The server talks under TLS only.
    #[error("the server wants TLS: use the scheme nbds or nbds+unix, and tls-certificates=")]
    TlsRequired,
    /// The other side greets as no server does.
    #[error("the other side is not an NBD server")]
    NotNbd,
    /// The server has no such export.
    #[error("the server has no export `{export}` {}", Offered(offered))]
    NoExport {
        /// The name.
        export: String,
        /// The exports that it names.
        offered: Vec<String>,
    },
    /// The server has no such metadata context.
    #[error(
        "the server offers no metadata context `{context}` {}",
        Offered(offered)
    )]
    NoContext {
        /// The context.
        context: String,
        /// The contexts that it names.
        offered: Vec<String>,
    },
    /// The server does not want to serve the export.
    #[error("the server refuses the export: {reply}")]
    Refused {
        /// Its answer.
        reply: OptionError,
    },
    /// The other connections of a server see another disk.
    #[error("the server gives the export another size on each connection")]
    SizeDiffers,
    /// The connection ended where more was to come.
    #[error("the server closed the connection")]
    Gone,
    /// The server says nothing any more.
    #[error("the server has not answered for {seconds} s")]
    TimedOut {
        /// How long was waited.
        seconds: u64,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// The connection failed.
    #[error("the connection to the server failed")]
    Io(#[source] io::Error),
    /// The server breaks the protocol in a way that shows in one message.
    #[error("the server broke the protocol")]
    Wire(#[from] WireError),
    /// The server breaks the protocol.
    #[error("the server broke the protocol: {rule}")]
    Protocol {
        /// What it did.
        rule: &'static str,
    },
    /// The server could not do what was asked.
    #[error("the server failed to {command} at {offset}: {failure}")]
    Failed {
        /// What was asked, as a verb.
        command: &'static str,
        /// Disk offset in bytes.
        offset: u64,
        /// What it says.
        failure: ServerFailure,
    },
    /// A failure that ended the connection for all who used it.
    #[error(transparent)]
    Shared(#[from] Arc<ClientError>),
}

impl ClientError {
    /// Returns the error of a rule that the server broke.
    pub(super) fn protocol(rule: &'static str) -> Self {
        Self::Protocol { rule }
    }

    /// Returns whether the caller asked to stop.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Shared(shared) => shared.is_cancelled(),
            _ => false,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// Names that a server offers, as part of a sentence.
struct Offered<'o>(&'o [String]);

impl fmt::Display for Offered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More names than anyone reads.
        const SHOWN_MAX: usize = 32;
        if self.0.is_empty() {
            return f.write_str("(it names none)");
        }
        f.write_str("(it offers ")?;
        for (number, name) in self.0.iter().take(SHOWN_MAX).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}`{}`", printable(name))?;
        }
        let dots = if self.0.len() > SHOWN_MAX {
            ", …"
        } else {
            ""
        };
        write!(f, "{dots})")
    }
}

/// A server's refusal of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionError {
    /// The type of its reply.
    pub kind: u32,
    /// What it says to people; may be empty.
    pub message: String,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            rep::ERR_UNSUP => "NBD_REP_ERR_UNSUP",
            rep::ERR_POLICY => "NBD_REP_ERR_POLICY",
            rep::ERR_INVALID => "NBD_REP_ERR_INVALID",
            rep::ERR_PLATFORM => "NBD_REP_ERR_PLATFORM",
            rep::ERR_TLS_REQD => "NBD_REP_ERR_TLS_REQD",
            rep::ERR_UNKNOWN => "NBD_REP_ERR_UNKNOWN",
            rep::ERR_SHUTDOWN => "NBD_REP_ERR_SHUTDOWN",
            rep::ERR_BLOCK_SIZE_REQD => "NBD_REP_ERR_BLOCK_SIZE_REQD",
            rep::ERR_TOO_BIG => "NBD_REP_ERR_TOO_BIG",
            rep::ERR_EXT_HEADER_REQD => "NBD_REP_ERR_EXT_HEADER_REQD",
            other => return write!(f, "error {other:#x}"),
        };
        write!(f, "{name}{}", Message(&self.message))
    }
}

/// A server's word on why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFailure {
    /// The error's number, by the protocol.
    pub error: u32,
    /// What it says to people; may be empty.
    pub message: String,
}

impl fmt::Display for ServerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.error {
            errno::EPERM => "EPERM, not permitted",
            errno::EIO => "EIO, input/output error",
            errno::ENOMEM => "ENOMEM, no memory",
            errno::EINVAL => "EINVAL, invalid request",
            errno::ENOSPC => "ENOSPC, no space",
            errno::EOVERFLOW => "EOVERFLOW, too much at once",
            errno::ENOTSUP => "ENOTSUP, not supported",
            errno::ESHUTDOWN => "ESHUTDOWN, the server is ending",
            other => return write!(f, "error {other}{}", Message(&self.message)),
        };
        write!(f, "{name}{}", Message(&self.message))
    }
}

/// A server's message in brackets, if there is one.
struct Message<'m>(&'m str);

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            message => write!(f, " ({})", printable(message)),
        }
    }
}

/// Returns text from a server fit for a message: no control characters, bounded.
fn printable(text: &str) -> String {
    text.chars()
        .take(STRING_LEN_MAX / 16)
        .map(crate::printable::shown)
        .collect()
}
