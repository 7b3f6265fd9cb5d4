//! What `cairn export` serves, and where.

use std::io::{self, Write};
use std::path::Path;

use cairn_engine::id::SnapshotId;
use serde::Serialize;

use super::Report;

/// The exports of a server that is ready.
#[derive(Debug, Serialize)]
pub struct ExportReport {
    pub exports: Vec<ExportedDisk>,
}

/// One disk that is served.
#[derive(Debug, Serialize)]
pub struct ExportedDisk {
    pub name: String,
    pub aliases: Vec<String>,
    pub snapshot: SnapshotId,
    pub vm: String,
    pub target: String,
    pub size: u64,
    pub writable: bool,
    pub uri: String,
}

impl Report for ExportReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for export in &self.exports {
            writeln!(out, "{}", export.uri)?;
        }
        Ok(())
    }
}

/// Where a server listens, as far as its URIs tell.
pub enum Place<'a> {
    Socket(&'a Path),
    /// An address with its port.
    Network(String),
}

/// Returns the URI of an export, in the form of the NBD URI specification.
pub fn uri(place: &Place<'_>, is_tls: bool, name: &str) -> String {
    let scheme = if is_tls { "nbds" } else { "nbd" };
    let name = encoded(name.as_bytes(), b"/@:");
    match place {
        Place::Network(address) => format!("{scheme}://{address}/{name}"),
        Place::Socket(path) => {
            let path = encoded(path.as_os_str().as_encoded_bytes(), b"/");
            format!("{scheme}+unix:///{name}?socket={path}")
        }
    }
}

/// Returns bytes with all but the unreserved characters and `kept` percent-encoded.
fn encoded(bytes: &[u8], kept: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let stays = byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte);
        match stays {
            true => text.push(char::from(*byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_encoded() {
        let socket = Place::Socket(Path::new("/run/a b&c.sock"));
        assert_eq!(
            uri(&socket, false, "web 1@3f/vda"),
            "nbd+unix:///web%201@3f/vda?socket=/run/a%20b%26c.sock"
        );
        let network = Place::Network("[::1]:10809".to_owned());
        assert_eq!(uri(&network, true, "vda"), "nbds://[::1]:10809/vda");
    }
}
