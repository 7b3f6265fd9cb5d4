//! One process at a time has an overlay open.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::OverlayError;
use super::error::io_error;
use crate::log::{Event, Log};

/// For a process that is ending by itself, and has something to flush.
const WAIT: Duration = Duration::from_secs(5);
/// A killed process keeps its lock until its last call ended, and an `fdatasync` may have gigabytes
/// to write out.
const WAIT_FOR_KILLED: Duration = Duration::from_secs(60);
const TELL_AFTER: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);
/// Bit of `SIGKILL` in a set of pending signals.
const KILLED: u64 = 1 << (9 - 1);

/// Locks the file that is open as `file` and was found at `path`.
pub(super) fn lock(file: &File, path: &Path, log: &Log) -> Result<(), OverlayError> {
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(Errno::INTR) => continue,
            Err(err) => return Err(io_error("lock", path)(err.into())),
        }
        let waited = begun.elapsed();
        if waited >= WAIT_FOR_KILLED || waited >= WAIT && !is_holder_ending(file) {
            let path = path.to_owned();
            return Err(OverlayError::InUse { path });
        }
        if !is_told && waited >= TELL_AFTER {
            log(&Event::OverlayAwaited { path });
            is_told = true;
        }
        thread::park_timeout(POLL);
    }
}

/// Returns whether a path still names the file that was opened by it.
pub(super) fn is_still_named(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

/// Whether the lock will be free without anybody's doing. Where that cannot be learned it will not.
fn is_holder_ending(file: &File) -> bool {
    let (Ok(meta), Ok(locks)) = (file.metadata(), fs::read_to_string("/proc/locks")) else {
        return false;
    };
    holders(&locks, meta.ino()).any(|holder| is_ending(holder).unwrap_or(false))
}

/// Returns the processes that hold a `flock` of a file with this number. The device is not looked
/// at: for some kinds of file system `stat` gives another than this list.
fn holders(locks: &str, inode: u64) -> impl Iterator<Item = u32> {
    locks.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        // One that waits has an arrow here.
        if fields.next()? != "FLOCK" {
            return None;
        }
        let holder = fields.nth(2)?.parse().ok()?;
        let (_, number) = fields.next()?.rsplit_once(':')?;
        (number.parse() == Ok(inode)).then_some(holder)
    })
}

/// Whether a process was killed and is not gone yet: the signal waits for each of its threads that
/// is in a call which cannot be interrupted.
fn is_ending(process: u32) -> io::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let status: PathBuf = thread?.path().join("status");
        if fs::read_to_string(status).is_ok_and(|status| is_killed(&status)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_killed(status: &str) -> bool {
    status.lines().any(|line| match line.split_once(':') {
        Some(("SigPnd" | "ShdPnd", set)) => {
            u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set & KILLED != 0)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_found_by_the_number_of_the_file() {
        let locks = "1: FLOCK  ADVISORY  WRITE 2222 fe:00:131 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 3333 fe:00:131 0 EOF\n\
                     2: POSIX  ADVISORY  READ 4444 fe:00:131 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 5555 fe:00:1310 0 EOF\n\
                     4: FLOCK  torn";
        assert_eq!(holders(locks, 131).collect::<Vec<_>>(), [2222]);
    }

    #[test]
    fn this_process_is_found_and_not_ending() {
        let file = tempfile::tempfile().expect("a temporary file can be made");
        rustix::fs::flock(&file, FlockOperation::LockExclusive).expect("nobody else has it");
        let locks = fs::read_to_string("/proc/locks").expect("is readable");
        let inode = file.metadata().expect("is open").ino();
        let found: Vec<u32> = holders(&locks, inode).collect();
        assert!(found.contains(&std::process::id()), "{locks}");
        assert!(!is_holder_ending(&file));
    }

    #[test]
    fn a_pending_kill_is_seen() {
        let status = |own, shared| format!("State:\tD\nSigPnd:\t{own}\nShdPnd:\t{shared}\n");
        let (none, kill, term) = ("0000000000000000", "0000000000000100", "0000000000004000");
        assert!(!is_killed(&status(none, none)));
        assert!(!is_killed(&status(term, term)));
        assert!(is_killed(&status(kill, none)));
        assert!(is_killed(&status(none, kill)));
    }
}
