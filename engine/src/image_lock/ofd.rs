//! Locks of an open file's own, which no crate at hand has.

#![expect(unsafe_code, reason = "these calls exist as C functions only")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

fn byte(at: i64, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes a shared lock of an open file's own on one byte, as QEMU does.
pub(super) fn share(file: &File, at: i64) -> io::Result<()> {
    let lock = byte(at, libc::F_RDLCK);
    // SAFETY: the descriptor is open while `file` is borrowed, and the kernel only reads `lock`.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Returns whether anyone else has a lock on one byte: not by this opening of the file.
pub(super) fn is_shared_by_others(file: &File, at: i64) -> io::Result<bool> {
    let mut lock = byte(at, libc::F_WRLCK);
    // SAFETY: the descriptor is open while `file` is borrowed, and `lock` is ours to be written.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK),
    }
}
