//! The file of a disk that is not whole yet: an empty qcow2 image over an export.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use crate::child;
use crate::storage::sync_file;

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of the header up to the end of the backing file's offset.
const HEADER_LEN: usize = 16;

/// Returns the URI of an export as QEMU takes it.
pub fn uri(socket: &str, target: &str) -> String {
    format!("nbd+unix:///{}?socket={}", escaped(target), escaped(socket))
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_./".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Makes an image of `size` bytes that shows what the export at `uri` holds, without asking it.
///
/// # Durability
///
/// Durable on return.
pub fn create(path: &Path, size: u64, uri: &str) -> io::Result<()> {
    let mut command = child::program("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-u", "-b", uri]);
    // A path with a colon would be taken for a protocol.
    let mut file = std::ffi::OsString::from("file:");
    file.push(path);
    command.arg(file).arg(size.to_string()).stdin(Stdio::null());
    let output = command.output().map_err(|error| {
        let text = format!("qemu-img cannot be run: {error}");
        io::Error::new(error.kind(), text)
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.trim().to_owned()));
    }
    sync_file(path)
}

/// Returns whether a qcow2 image names a backing file. One that QEMU has open may be asked too.
pub fn has_backing(path: &Path) -> io::Result<bool> {
    let mut header = [0; HEADER_LEN];
    File::open(path)?.read_exact_at(&mut header, 0)?;
    let (magic, rest) = header.split_at(QCOW2_MAGIC.len());
    if magic != QCOW2_MAGIC {
        return Err(io::Error::other("it is no qcow2 image"));
    }
    // Behind the version.
    Ok(rest.iter().skip(4).any(|byte| *byte != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_uri_cannot_hold_is_escaped() {
        assert_eq!(
            uri("/run/a b&c", "vd?"),
            "nbd+unix:///vd%3F?socket=/run/a%20b%26c"
        );
    }

    #[test]
    fn an_image_over_an_export_says_so() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let path = folder.path().join("a:b.qcow2");
        create(&path, 1 << 20, &uri("/run/no.sock", "vda")).expect("qemu-img is there");
        assert!(has_backing(&path).expect("it was made"));
        let mut header = std::fs::read(&path).expect("it was made");
        header[8..16].fill(0);
        std::fs::write(&path, header).expect("it can be written");
        assert!(!has_backing(&path).expect("it is there"));
    }
}
