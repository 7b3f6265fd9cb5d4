//! Images as `qemu-img` is told of them: by what is open, and not by a path, which could stand for
//! another file by the time that it is opened again. Whoever owns the folder can see to that.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::own;

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of the header up to the end of what is looked at here.
const HEADER_LEN: usize = 80;
/// Longest name of a backing file, by the format.
const NAME_LEN_MAX: u32 = 1023;
/// Incompatible feature: the guest's data lie in a file of their own.
const DATA_FILE: u64 = 1 << 2;

/// What tells one file from all others; of a device, its own number.
pub(super) fn identity_of(found: &Metadata) -> (u64, u64) {
    match found.file_type().is_block_device() {
        true => (0, found.rdev()),
        false => (found.dev(), found.ino()),
    }
}

/// Opens a file or a block device, and follows no link.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let check = |found: &Metadata| {
        let kind = found.file_type();
        match kind.is_file() || kind.is_block_device() {
            true => Ok(()),
            false if kind.is_symlink() => Err(io::Error::other("it is a symbolic link")),
            false => Err(io::Error::other("it is neither a file nor a block device")),
        }
    };
    check(&fs::symlink_metadata(path)?)?;
    let file = own::open_unfollowed(path, OFlags::RDONLY)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Names an open file to a child of this process that runs as the same user.
pub(super) fn of_ours(file: &File) -> PathBuf {
    PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        file.as_raw_fd()
    ))
}

/// Names to a child what it has for its input.
pub(super) fn input() -> PathBuf {
    PathBuf::from("/proc/self/fd/0")
}

/// Describes an image to QEMU under such a name. `folder` is where it lies: what its header calls
/// the image below it may be meant from there.
pub(super) fn describe(file: &File, name: &Path, folder: &Path, format: &str) -> io::Result<Value> {
    let driver = match file.metadata()?.file_type().is_block_device() {
        true => "host_device",
        false => "file",
    };
    let mut image = json!({
        "driver": format,
        "file": {"driver": driver, "filename": name.to_string_lossy()},
    });
    if format == "qcow2"
        && let Some(below) = backing_name(file)?.filter(|below| is_relative(below))
    {
        let below = folder.join(below);
        let file = json!({"driver": "file", "filename": below.to_string_lossy()});
        image["backing"] = json!({"file": file});
    }
    Ok(image)
}

/// Requires that an overlay keeps its data to itself.
///
/// # Errors
///
/// Whoever ran as QEMU's user can have written to its header that they lie in another file, such as
/// one that only root can read.
pub(super) fn check_overlay(file: &File) -> io::Result<()> {
    let header = header(file)?;
    let version = number(&header, 4, 4);
    match version >= 3 && number(&header, 72, 8) & DATA_FILE != 0 {
        true => Err(io::Error::other(
            "its header names a data file, which no overlay has",
        )),
        false => Ok(()),
    }
}

fn header(file: &File) -> io::Result<[u8; HEADER_LEN]> {
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, 0)?;
    match header.starts_with(&QCOW2_MAGIC) {
        true => Ok(header),
        false => Err(io::Error::other("it is no qcow2 image")),
    }
}

/// Reads a number of a header, where it has one.
fn number(header: &[u8], at: usize, len: usize) -> u64 {
    let bytes = header.iter().skip(at).take(len);
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn backing_name(file: &File) -> io::Result<Option<PathBuf>> {
    let header = header(file)?;
    let (at, len) = (number(&header, 8, 8), number(&header, 16, 4));
    if at == 0 || len == 0 {
        return Ok(None);
    }
    let len = u32::try_from(len).ok().filter(|len| *len <= NAME_LEN_MAX);
    let len = len.ok_or_else(|| io::Error::other("the name of the image below it is too long"))?;
    let mut name = vec![0; len as usize];
    file.read_exact_at(&mut name, at)?;
    Ok(Some(PathBuf::from(std::ffi::OsStr::from_bytes(&name))))
}

/// Returns whether QEMU looks for it from the folder of the image that names it.
fn is_relative(name: &Path) -> bool {
    let bytes = name.as_os_str().as_bytes();
    let end = bytes.iter().position(|byte| b":/".contains(byte));
    name.is_relative() && end.is_none_or(|end| bytes.get(end) != Some(&b':'))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn create(folder: &Path, args: &[&str]) {
        let mut command = Command::new("qemu-img");
        command
            .current_dir(folder)
            .args(["create", "-q", "-f", "qcow2"]);
        assert!(
            command
                .args(args)
                .status()
                .expect("qemu-img is there")
                .success()
        );
    }

    #[test]
    fn an_image_is_named_by_what_is_open_and_what_is_below_it_by_its_folder() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let folder = folder.path();
        create(folder, &["below", "1M"]);
        create(folder, &["-b", "below", "-F", "qcow2", "above"]);
        let described = |name: &str| {
            let file = open(&folder.join(name)).expect("it is there");
            describe(&file, &of_ours(&file), folder, "qcow2").expect("it is an image")
        };
        let above = described("above");
        let expected = folder.join("below");
        assert_eq!(
            above["backing"]["file"]["filename"],
            *expected.to_string_lossy()
        );
        assert!(
            above["file"]["filename"]
                .as_str()
                .is_some_and(|n| n.starts_with("/proc/"))
        );
        assert!(described("below").get("backing").is_none());
        create(
            folder,
            &["-u", "-b", "nbd:unix:/s", "-F", "raw", "served", "1M"],
        );
        assert!(described("served").get("backing").is_none());
        create(folder, &["-o", "data_file=data", "apart", "1M"]);
        let check = |name: &str| check_overlay(&open(&folder.join(name)).expect("it is there"));
        assert!(check("above").is_ok());
        assert!(check("apart").is_err());
        std::os::unix::fs::symlink("above", folder.join("link")).expect("links can be made");
        assert!(open(&folder.join("link")).is_err());
        let raw = open(Path::new("/dev/null")).expect_err("it is no image");
        assert!(raw.to_string().contains("neither"), "{raw}");
    }
}
