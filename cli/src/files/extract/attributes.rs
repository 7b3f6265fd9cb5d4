//! What a file has beside its content: owner, mode, extended attributes and times, in an order in
//! which none undoes another.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use cairn_engine::guest::tree::{FileKind, FileTime, Stat, Xattr};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{ExtractError, Summary, failed};
use crate::files::shown;

/// Bits that lend the owner's or the group's rights.
const SET_ID: u16 = 0o6000;

/// A file that is held, so that nobody can put another in its place meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) enum Held<'f> {
    /// One that is open.
    Open(BorrowedFd<'f>),
    /// A link or special file, which cannot be opened but pointed at (`O_PATH`).
    Node(BorrowedFd<'f>),
}

impl Held<'_> {
    fn set_owner(self, uid: Uid, gid: Gid) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, Some(uid), Some(gid)),
            Self::Node(fd) => {
                rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            }
        }
    }

    fn set_mode(self, mode: Mode) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::Node(fd) => rustix::fs::chmod(path_of(fd), mode),
        }
    }

    fn set_xattr(self, name: &OsStr, value: &[u8]) -> Result<(), Errno> {
        let flags = XattrFlags::empty();
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            Self::Node(fd) => rustix::fs::setxattr(path_of(fd), name, value, flags),
        }
    }

    fn set_times(self, times: &Timestamps) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            Self::Node(fd) => rustix::fs::utimensat(CWD, path_of(fd), times, AtFlags::empty()),
        }
    }
}

/// Returns a path that leads to what is pointed at, and to nothing else: the system goes no further
/// from there, not even where that is a symbolic link.
fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// What this process may set.
pub(super) struct Attributes {
    uid: u32,
    gid: u32,
}

impl Attributes {
    /// Finds out who this process is.
    pub fn of_process() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// Returns the owner to set, if that is possible.
    fn owner(&self, stat: &Stat, summary: &mut Summary) -> Option<(Uid, Gid)> {
        let (uid, gid) = stat.owner?;
        if (uid, gid) == (self.uid, self.gid) {
            return None;
        }
        // The highest number means no change to the system, and is nobody's.
        if self.uid != 0 || uid == u32::MAX || gid == u32::MAX {
            summary.owners_kept += 1;
            return None;
        }
        Some((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    /// Returns the mode to set. A file that stays ours must not lend our rights to others because
    /// the guest lent someone else's; and what is no program lends nothing.
    fn mode(&self, stat: &Stat, is_owner_set: bool) -> Option<Mode> {
        let mode = stat.mode?;
        let can_lend = match stat.kind {
            FileKind::File | FileKind::Folder => true,
            FileKind::Symlink => return None,
            _ => false,
        };
        let is_same = is_owner_set || stat.owner == Some((self.uid, self.gid));
        let mode = if is_same && can_lend {
            mode
        } else {
            mode & !SET_ID
        };
        Some(Mode::from_bits_truncate(u32::from(mode)))
    }

    /// Sets everything. What is refused does not keep the rest from being set.
    ///
    /// # Errors
    ///
    /// The first thing but an extended attribute that was refused.
    pub fn apply(
        &self,
        file: Held<'_>,
        stat: &Stat,
        xattrs: &[Xattr],
        summary: &mut Summary,
    ) -> Result<(), ExtractError> {
        let owner = self.owner(stat, summary);
        let owned = owner.map_or(Ok(()), |(uid, gid)| {
            file.set_owner(uid, gid).map_err(failed("set the owner"))
        });
        let mode = self.mode(stat, owner.is_some() && owned.is_ok());
        let allowed = mode.map_or(Ok(()), |mode| {
            file.set_mode(mode).map_err(failed("set the mode"))
        });
        for (name, value) in xattrs {
            if file.set_xattr(OsStr::from_bytes(name), value).is_err() {
                *summary.refused.entry(shown(name)).or_default() += 1;
            }
        }
        let dated = file.set_times(&times(stat));
        owned
            .and(allowed)
            .and(dated.map_err(failed("set the times")))
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |time: FileTime| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    Timestamps {
        last_access: time(stat.accessed.unwrap_or(stat.modified)),
        last_modification: time(stat.modified),
    }
}
