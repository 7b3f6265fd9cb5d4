//! Unfinished files of restores that were killed. Who writes one holds a lock on it, which ends
//! with its process, however that ends, and on whatever host it ran.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::partial::{MARK, SUFFIX, prefix};

/// Marks a file as being written. Returns whether it still has its name: whoever looks for
/// leftovers may have come in between.
pub(super) fn claim(file: &File) -> bool {
    // Where the file system has no locks, nobody can take it for a leftover either.
    let _locked = flock(file, FlockOperation::LockExclusive);
    file.metadata().is_ok_and(|found| found.nlink() > 0)
}

/// Removes what killed restores to a path have left beside it. What cannot be looked at stays.
pub(super) fn remove(path: &Path) {
    let Some(name) = path.file_name() else {
        return;
    };
    for leftover in beside(path, name) {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(&leftover);
        let Ok(file) = opened else {
            continue;
        };
        let is_dead = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_dead && is_named(&file, &leftover) {
            drop(fs::remove_file(&leftover));
        }
    }
}

/// Returns whether a path names an open file, and nothing but a file.
fn is_named(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    named.is_file() && (open.dev(), open.ino()) == (named.dev(), named.ino())
}

/// Returns the paths of a file's unfinished ones.
fn beside(path: &Path, name: &OsStr) -> Vec<PathBuf> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let begin = prefix(name);
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let found = entries.filter_map(Result::ok);
    let found = found.filter(|entry| is_unfinished(&entry.file_name(), &begin));
    found.map(|entry| entry.path()).collect()
}

fn is_unfinished(name: &OsStr, begin: &OsString) -> bool {
    let rest = name.as_bytes().strip_prefix(begin.as_bytes());
    let rest = rest.and_then(|rest| rest.strip_prefix(MARK.as_bytes()));
    let numbers = rest.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
    let Some(numbers) = numbers else {
        return false;
    };
    let numbers: Vec<&[u8]> = numbers.split(|byte| *byte == b'-').collect();
    let is_number = |digits: &&[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    numbers.len() == 2 && numbers.iter().all(is_number)
}
