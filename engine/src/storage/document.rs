//! Small files outside of repositories that a power cut must not halve.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{CWD, renameat};

/// Makes a folder that only its owner gets into, and those above it that are missing.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file anew: whoever reads it sees what it held before, or all of `bytes`. Only its owner
/// may read it.
///
/// # Durability
///
/// Durable on return.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name();
    let name = name.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.partial", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed =
        written.and_then(|()| renameat(CWD, &temporary, CWD, path).map_err(io::Error::from));
    if renamed.is_err() {
        // Nobody reads a file of that name.
        drop(fs::remove_file(&temporary));
    }
    renamed?;
    sync_parent(path)
}

/// Makes a file and its name durable.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let path = folder.path().join("a.json");
        replace_file(&path, b"one").expect("the folder is there");
        replace_file(&path, b"two").expect("the folder is there");
        assert_eq!(fs::read(&path).expect("it was written"), b"two");
        let mode = fs::metadata(&path).expect("it was written").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let names = fs::read_dir(folder.path()).expect("it is there");
        assert_eq!(names.count(), 1);
        assert!(replace_file(&folder.path().join("no/a"), b"").is_err());
    }
}
