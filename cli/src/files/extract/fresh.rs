//! A file, link or device under a temporary name, which takes its own name when it is whole: an
//! interruption leaves what was there before, or what is new, and never half of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};

use cairn_engine::guest::tree::{FileKind, Stat};
use cairn_engine::target::{rename_new, temporary_name};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{ExtractError, exists_or, failed};

/// Something that was made, and has its temporary name. Dropping it removes it.
pub(super) struct Fresh<'f> {
    folder: BorrowedFd<'f>,
    name: &'f OsStr,
    temporary: OsString,
    force: bool,
    is_published: bool,
}

impl<'f> Fresh<'f> {
    /// Has `make` make something in a folder under a name that nothing has yet. With `force` it
    /// will replace whatever is called `name` but a folder.
    pub fn make<T>(
        folder: BorrowedFd<'f>,
        name: &'f OsStr,
        force: bool,
        make: impl Fn(&OsStr) -> Result<T, Errno>,
        refused: impl FnOnce(Errno) -> ExtractError,
    ) -> Result<(Self, T), ExtractError> {
        check_room(folder, name, force)?;
        let mut attempt = 0;
        loop {
            let temporary = temporary_name(name, attempt);
            match make(&temporary) {
                Ok(made) => {
                    let fresh = Self {
                        folder,
                        name,
                        temporary,
                        force,
                        is_published: false,
                    };
                    return Ok((fresh, made));
                }
                // Left by a process of the same number that was killed.
                Err(Errno::EXIST) => attempt += 1,
                Err(errno) => return Err(refused(errno)),
            }
        }
    }

    /// Makes an empty file.
    pub fn file(
        folder: BorrowedFd<'f>,
        name: &'f OsStr,
        force: bool,
        stat: &Stat,
    ) -> Result<(Self, File), ExtractError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        // Nobody else reads it until its own mode tells who may.
        let mode = Mode::from(if stat.mode.is_some() { 0o600 } else { 0o666 });
        let make = |temporary: &OsStr| {
            rustix::fs::openat(folder, temporary, flags | OFlags::CLOEXEC, mode).map(File::from)
        };
        Self::make(folder, name, force, make, failed("make the file"))
    }

    /// Points at a link or special file that was just made.
    ///
    /// # Errors
    ///
    /// Also where someone has put another file in its place, as whoever may write to the folder
    /// can.
    pub fn point_at(&self, stat: &Stat) -> Result<OwnedFd, ExtractError> {
        let what = "find what was made again";
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.folder, &self.temporary, flags, Mode::empty());
        let fd = fd.map_err(failed(what))?;
        let found = rustix::fs::fstat(&fd).map_err(failed(what))?;
        let (kind, device) = node_of(stat.kind);
        let is_ours = found.st_uid == rustix::process::geteuid().as_raw()
            && found.st_nlink == 1
            && FileType::from_raw_mode(found.st_mode) == kind
            && found.st_rdev == device;
        match is_ours {
            true => Ok(fd),
            false => Err(failed(what)(Errno::STALE)),
        }
    }

    /// Gives it its own name.
    pub fn publish(mut self) -> Result<(), ExtractError> {
        let renamed = match self.force {
            true => rustix::fs::renameat(self.folder, &self.temporary, self.folder, self.name),
            false => rename_new(self.folder, &self.temporary, self.name),
        };
        renamed.map_err(exists_or("give the finished file its name"))?;
        // Where both names were the same file's, the system leaves both.
        self.is_published = !self.force;
        Ok(())
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.is_published {
            // If it stays, its name says what it is.
            rustix::fs::unlinkat(self.folder, &self.temporary, AtFlags::empty()).ok();
        }
    }
}

/// Returns what the system calls a link or special file, and its device number if it has one.
pub(super) fn node_of(kind: FileKind) -> (FileType, u64) {
    match kind {
        FileKind::BlockDevice(number) => (FileType::BlockDevice, number),
        FileKind::CharDevice(number) => (FileType::CharacterDevice, number),
        FileKind::Fifo => (FileType::Fifo, 0),
        FileKind::Socket => (FileType::Socket, 0),
        FileKind::Symlink => (FileType::Symlink, 0),
        FileKind::File => (FileType::RegularFile, 0),
        FileKind::Folder => (FileType::Directory, 0),
    }
}

/// Fails where something is in the way, before anything is read.
fn check_room(folder: BorrowedFd<'_>, name: &OsStr, force: bool) -> Result<(), ExtractError> {
    let Ok(there) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    if !force {
        return Err(ExtractError::Exists);
    }
    match FileType::from_raw_mode(there.st_mode) {
        FileType::Directory => Err(failed("replace what is there")(Errno::ISDIR)),
        _ => Ok(()),
    }
}
