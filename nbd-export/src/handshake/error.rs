//! Why there was no agreement.

use std::io;

use cairn_engine::nbd::tls::TlsError;
use cairn_engine::nbd::wire::WireError;

/// Why a client was sent away before there was an agreement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The connection failed.
    #[error("the connection failed during the handshake")]
    Io(#[from] io::Error),
    /// The client breaks the protocol.
    #[error("the client breaks the protocol")]
    Wire(#[from] WireError),
    /// TLS did not come about.
    #[error("TLS did not come about")]
    Tls(#[from] TlsError),
    /// The client's first flags are not known here.
    #[error("the client sets handshake flags {flags:#x}")]
    Flags {
        /// The flags.
        flags: u32,
    },
    /// The client asks for an export in a way that allows no answer, and cannot have it.
    #[error("the client insists on an export that it cannot have")]
    NoExport,
    /// The client sends more options, or longer ones, than make sense.
    #[error("the client sends too many options, or too long ones")]
    TooMuch,
}
