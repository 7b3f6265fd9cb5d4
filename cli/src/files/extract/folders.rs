//! The folders here that are being written: one in another, held open as far as there may be that
//! many open files.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cairn_engine::guest::tree::{FileId, Stat};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{ExtractError, exists_or, failed};

/// Folders that are held open. A process may have 1024 files open by default.
const OPEN_MAX: usize = 128;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The folders from the first that was made to the one that is being written.
pub(super) struct Folders {
    /// Where the first was made.
    base: OwnedFd,
    levels: Vec<Level>,
}

struct Level {
    name: OsString,
    id: FileId,
    stat: Stat,
    /// Closed while many others below it are open.
    fd: Option<OwnedFd>,
}

impl Folders {
    /// Begins in a folder that is there.
    pub fn begin(base: OwnedFd) -> Self {
        Self {
            base,
            levels: Vec::new(),
        }
    }

    /// Returns the folder that is being written.
    pub fn current(&self) -> Result<BorrowedFd<'_>, ExtractError> {
        match self.levels.last() {
            None => Ok(self.base.as_fd()),
            Some(Level { fd: Some(fd), .. }) => Ok(fd.as_fd()),
            // It could not be opened again, which was said then.
            Some(Level { fd: None, .. }) => Err(failed("open the folder again")(Errno::BADF)),
        }
    }

    /// Makes a folder in the one that is being written, and goes on in it. One that is there is
    /// taken only with `force`.
    pub fn enter(
        &mut self,
        name: &OsStr,
        id: FileId,
        stat: Stat,
        force: bool,
    ) -> Result<(), ExtractError> {
        let parent = self.current()?;
        // The guest's own mode may forbid what is still to be written.
        let mode = Mode::from(if stat.mode.is_some() { 0o700 } else { 0o777 });
        match rustix::fs::mkdirat(parent, name, mode) {
            Err(Errno::EXIST) if force => {}
            made => made.map_err(exists_or("make the folder"))?,
        }
        let fd = open(parent, name)?;
        self.levels.push(Level {
            name: name.to_owned(),
            id,
            stat,
            fd: Some(fd),
        });
        let closed = self.levels.len().checked_sub(OPEN_MAX + 1);
        if let Some(level) = closed.and_then(|index| self.levels.get_mut(index)) {
            level.fd = None;
        }
        Ok(())
    }

    /// Leaves the folder that is being written, and returns it.
    pub fn leave(&mut self) -> Result<Option<(OwnedFd, FileId, Stat)>, ExtractError> {
        let Some(level) = self.levels.pop() else {
            return Ok(None);
        };
        self.open_last()?;
        Ok(level.fd.map(|fd| (fd, level.id, level.stat)))
    }

    /// Opens the innermost folder again, where it was closed.
    fn open_last(&mut self) -> Result<(), ExtractError> {
        if self.levels.last().is_none_or(|level| level.fd.is_some()) {
            return Ok(());
        }
        // All above a closed one are closed as well.
        let names = self.levels.iter().map(|level| level.name.as_os_str());
        let fd = self.descend(names)?;
        if let Some(level) = self.levels.last_mut() {
            level.fd = fd;
        }
        Ok(())
    }

    /// Opens a folder by the names that lead to it.
    fn descend<'n>(
        &self,
        names: impl Iterator<Item = &'n OsStr>,
    ) -> Result<Option<OwnedFd>, ExtractError> {
        let mut fd = None;
        for name in names {
            let above = fd.as_ref().map_or(self.base.as_fd(), AsFd::as_fd);
            fd = Some(open(above, name)?);
        }
        Ok(fd)
    }

    /// Opens the folder of a path below the first folder that was made. Returns it with the last
    /// name of the path.
    pub fn parent_of<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), ExtractError> {
        let first = self.levels.first().map(|level| level.name.as_os_str());
        let names = path.parent().into_iter().flat_map(Path::iter);
        let fd = self.descend(first.into_iter().chain(names))?;
        match (fd, path.file_name()) {
            (Some(fd), Some(name)) => Ok((fd, name)),
            _ => Err(failed("find the file again")(Errno::NOENT)),
        }
    }
}

fn open(above: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, ExtractError> {
    let fd = rustix::fs::openat(above, name, FOLDER, Mode::empty());
    fd.map_err(failed("open the folder"))
}
