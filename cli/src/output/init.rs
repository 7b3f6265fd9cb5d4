//! What `init` says.

use std::io::{self, Write};

use cairn_engine::id::RepositoryId;
use serde::Serialize;

use super::{Report, size};

/// A repository that was made.
#[derive(Debug, Serialize)]
pub struct InitReport {
    /// The repository's identity.
    pub repository_id: RepositoryId,
    /// Where it is.
    pub location: String,
    /// Average chunk size in bytes.
    pub chunk_size: u64,
    /// Compression, as it is typed.
    pub compression: String,
    /// For how many seconds forgotten snapshots rest.
    pub grace_seconds: u64,
    /// How much parity every pack gets, in percent of it.
    pub parity_percent: Option<u8>,
    /// Whether everything in it is sealed.
    pub encrypted: bool,
}

impl Report for InitReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let chunk_size = size::exact(self.chunk_size);
        let encryption = if self.encrypted {
            "encrypted"
        } else {
            "not encrypted"
        };
        writeln!(
            out,
            "repository {} at {}",
            self.repository_id.short(),
            self.location
        )?;
        writeln!(
            out,
            "chunks of {chunk_size}, compression {}, {}{encryption}",
            self.compression,
            match self.parity_percent {
                Some(percent) => format!("{percent} % of parity, "),
                None => String::new(),
            }
        )
    }
}
