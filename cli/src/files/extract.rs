//! Files of a guest, written to a folder here.
//!
//! Whoever wrote the guest's disk may wish to write to this machine's. So every name is one name
//! in a folder that is held open, no symbolic link is ever followed, and nothing is opened that
//! was there before: what is written is made anew, or not at all. Files take their names when they
//! are whole. Folders get their modes and times when they are left, the innermost first.

mod attributes;
mod folders;
mod fresh;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use cairn_engine::guest::tree::{FileId, FileKind, FileSystem, GuestError, Stat, Xattr};
use cairn_engine::guest::walk::{Event, Walk};
use cairn_engine::progress::{Cancel, Progress};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use attributes::{Attributes, Held};
use folders::Folders;
use fresh::Fresh;

/// Why one file was not written, or not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The guest's file cannot be read.
    #[error("cannot read it from the snapshot")]
    Guest(#[from] GuestError),
    /// The file here cannot be written.
    #[error("cannot {what}")]
    Write {
        /// What failed.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Something is there already.
    #[error("it exists already; --force replaces files")]
    Exists,
    /// Only root can make it.
    #[error("only root can make a device")]
    Device,
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> ExtractError {
    move |errno| ExtractError::Write {
        what,
        source: errno.into(),
    }
}

/// What was written.
#[derive(Debug, Default)]
pub struct Summary {
    /// Regular files, without hard links.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Devices, fifos and sockets.
    pub special: u64,
    /// Bytes of content, without holes.
    pub bytes: u64,
    /// Files that were not written, or not as they should be.
    pub problems: u64,
    /// Extended attributes that the system refused, by name.
    pub refused: BTreeMap<String, u64>,
    /// Files whose owner is not the guest's.
    pub owners_kept: u64,
}

/// How files are written.
pub struct Options<'o> {
    /// Whether files that are there are replaced.
    pub force: bool,
    /// Asked between any two pieces.
    pub cancel: &'o Cancel,
    /// Counts content.
    pub progress: &'o Progress,
}

/// Writes files of one file system.
pub struct Extractor<'e> {
    file_system: &'e dyn FileSystem,
    options: Options<'e>,
    attributes: Attributes,
    summary: Summary,
    /// Where files with several names were written, and how many of the names are still to come.
    written: HashMap<FileId, (PathBuf, u32)>,
    /// What is told of each problem.
    report: &'e mut dyn FnMut(&[u8], &ExtractError),
}

impl<'e> Extractor<'e> {
    /// Prepares to write; `report` is told of each problem, with the path below what was asked for.
    pub fn new(
        file_system: &'e dyn FileSystem,
        options: Options<'e>,
        report: &'e mut dyn FnMut(&[u8], &ExtractError),
    ) -> Self {
        Self {
            file_system,
            options,
            attributes: Attributes::of_process(),
            summary: Summary::default(),
            written: HashMap::new(),
            report,
        }
    }

    /// Writes a file, or a folder with all that is in it, as `name` in a folder here.
    ///
    /// # Errors
    ///
    /// Only where nothing was written, or someone asked to stop. Anything else is reported and
    /// counted.
    pub fn run(
        mut self,
        into: OwnedFd,
        name: &OsStr,
        file: FileId,
    ) -> Result<Summary, ExtractError> {
        let stat = self.file_system.stat(file)?;
        if stat.kind == FileKind::Folder {
            self.tree(into, name, file, stat)?;
        } else {
            self.file(into.as_fd(), name, file, &stat, None)?;
        }
        self.summary.problems += self.summary.refused.values().sum::<u64>();
        Ok(self.summary)
    }

    fn tree(
        &mut self,
        into: OwnedFd,
        name: &OsStr,
        file: FileId,
        stat: Stat,
    ) -> Result<(), ExtractError> {
        let mut folders = Folders::begin(into);
        folders.enter(name, file, stat, self.options.force)?;
        self.summary.folders += 1;
        let mut walk = Walk::new(self.file_system, file);
        while let Some(event) = walk.step() {
            if self.options.cancel.is_cancelled() {
                return Err(ExtractError::Cancelled);
            }
            let result = match event {
                Event::Folder(id, stat) => {
                    let name = OsStr::from_bytes(walk.name());
                    let entered = folders.enter(name, id, stat, self.options.force);
                    match &entered {
                        Ok(()) => self.summary.folders += 1,
                        // What is skipped is not left either.
                        Err(_) => walk.skip(),
                    }
                    entered
                }
                Event::File(id, stat) => {
                    let name = OsStr::from_bytes(walk.name());
                    let place = Some((&folders, walk.path()));
                    let folder = folders.current();
                    folder.and_then(|folder| self.file(folder, name, id, &stat, place))
                }
                Event::Leave => self.leave(&mut folders),
                Event::Failed(error) => Err(error.into()),
            };
            self.handle(result, walk.path())?;
        }
        let result = self.leave(&mut folders);
        self.handle(result, b"")
    }

    /// Reports and counts a problem, unless it is that someone asked to stop.
    fn handle(
        &mut self,
        result: Result<(), ExtractError>,
        path: &[u8],
    ) -> Result<(), ExtractError> {
        match result {
            Ok(()) => Ok(()),
            Err(ExtractError::Cancelled) => Err(ExtractError::Cancelled),
            Err(error) => {
                self.summary.problems += 1;
                (self.report)(path, &error);
                Ok(())
            }
        }
    }

    fn leave(&mut self, folders: &mut Folders) -> Result<(), ExtractError> {
        let Some((fd, id, stat)) = folders.leave()? else {
            return Ok(());
        };
        let (xattrs, read) = self.xattrs(id);
        self.attributes
            .apply(Held::Open(fd.as_fd()), &stat, &xattrs, &mut self.summary)
            .and(read)
    }

    /// Returns a file's extended attributes, or none and why: the others are set all the same.
    fn xattrs(&self, id: FileId) -> (Vec<Xattr>, Result<(), ExtractError>) {
        match self.file_system.xattrs(id) {
            Ok(xattrs) => (xattrs, Ok(())),
            Err(error) => (Vec::new(), Err(error.into())),
        }
    }

    /// Writes anything but a folder. Where it is part of a tree, `place` tells where in it, so
    /// that other names of the file can be made links to it.
    fn file(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        id: FileId,
        stat: &Stat,
        place: Option<(&Folders, &[u8])>,
    ) -> Result<(), ExtractError> {
        if stat.links > 1
            && let Some((folders, path)) = place
        {
            if self.link(folders, folder, name, id)? {
                return Ok(());
            }
            self.write_new(folder, name, id, stat)?;
            let path = PathBuf::from(OsStr::from_bytes(path));
            self.written.insert(id, (path, stat.links - 1));
            return Ok(());
        }
        self.write_new(folder, name, id, stat)
    }

    /// Makes another name of a file that was written before; returns whether it did.
    fn link(
        &mut self,
        folders: &Folders,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        id: FileId,
    ) -> Result<bool, ExtractError> {
        let Some((path, left)) = self.written.get_mut(&id) else {
            return Ok(false);
        };
        let force = self.options.force;
        // A folder that was left may not be entered any more; then the file is written again.
        let linked = folders.parent_of(path).and_then(|(parent, old)| {
            let make = |temporary: &OsStr| {
                rustix::fs::linkat(&parent, old, folder, temporary, AtFlags::empty())
            };
            let (fresh, ()) = Fresh::make(folder, name, force, make, failed("link it"))?;
            fresh.publish()
        });
        *left -= 1;
        if *left == 0 {
            self.written.remove(&id);
        }
        self.summary.hard_links += u64::from(linked.is_ok());
        Ok(linked.is_ok())
    }

    fn write_new(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        id: FileId,
        stat: &Stat,
    ) -> Result<(), ExtractError> {
        if stat.kind != FileKind::File {
            return self.write_node(folder, name, id, stat);
        }
        let (fresh, file) = Fresh::file(folder, name, self.options.force, stat)?;
        // Half a file would be taken for a whole one: it never gets its name.
        self.fill(&file, id, stat)?;
        let (xattrs, read) = self.xattrs(id);
        let held = Held::Open(file.as_fd());
        let applied = self
            .attributes
            .apply(held, stat, &xattrs, &mut self.summary);
        fresh.publish()?;
        self.summary.files += 1;
        applied.and(read)
    }

    /// Makes a link or special file.
    fn write_node(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        id: FileId,
        stat: &Stat,
    ) -> Result<(), ExtractError> {
        let force = self.options.force;
        let is_link = stat.kind == FileKind::Symlink;
        let (fresh, ()) = if is_link {
            let target = self.file_system.read_link(id)?;
            let target = OsStr::from_bytes(&target);
            let make = |temporary: &OsStr| rustix::fs::symlinkat(target, folder, temporary);
            let refused = failed("make the symbolic link");
            Fresh::make(folder, name, force, make, refused)?
        } else {
            let (kind, device) = fresh::node_of(stat.kind);
            let mode = Mode::RUSR | Mode::WUSR;
            let make =
                |temporary: &OsStr| rustix::fs::mknodat(folder, temporary, kind, mode, device);
            let refused = |errno| match errno {
                Errno::PERM => ExtractError::Device,
                errno => failed("make the special file")(errno),
            };
            Fresh::make(folder, name, force, make, refused)?
        };
        let node = fresh.point_at(stat)?;
        let (xattrs, read) = self.xattrs(id);
        let held = Held::Node(node.as_fd());
        let applied = self
            .attributes
            .apply(held, stat, &xattrs, &mut self.summary);
        fresh.publish()?;
        match is_link {
            true => self.summary.symlinks += 1,
            false => self.summary.special += 1,
        }
        applied.and(read)
    }

    fn fill(&mut self, file: &File, id: FileId, stat: &Stat) -> Result<(), ExtractError> {
        let Options {
            cancel, progress, ..
        } = &self.options;
        Progress::add(&progress.total_bytes, stat.size);
        let mut end = 0;
        let mut bytes = 0;
        let read = self.file_system.read_file(id, &mut |at, piece| {
            if cancel.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            file.write_all_at(piece, at)?;
            bytes += piece.len() as u64;
            Progress::add(&progress.done_bytes, (at - end) + piece.len() as u64);
            Progress::add(&progress.written_bytes, piece.len() as u64);
            end = at + piece.len() as u64;
            Ok(())
        });
        if cancel.is_cancelled() {
            return Err(ExtractError::Cancelled);
        }
        read?;
        Progress::add(&progress.done_bytes, stat.size.saturating_sub(end));
        self.summary.bytes += bytes;
        rustix::fs::ftruncate(file, stat.size).map_err(failed("set the length"))
    }
}

fn exists_or(what: &'static str) -> impl FnOnce(Errno) -> ExtractError {
    move |errno| match errno {
        Errno::EXIST => ExtractError::Exists,
        errno => failed(what)(errno),
    }
}
