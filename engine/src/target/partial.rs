//! A file under a temporary name beside its place, which it takes when it is whole.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::fs::{linkat, renameat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::in_use::InUse;
use super::output::Output;
use super::{TargetError, leftover};
use crate::own;

/// Bytes of the file's own name that its temporary name keeps: with the rest it stays below the
/// 255 that file systems allow.
const NAME_KEPT: usize = 200;
/// What stands between a file's own name and the numbers of a temporary one.
pub(super) const MARK: &str = ".cairn-";
/// What stands after them.
pub(super) const SUFFIX: &str = ".partial";

/// An unfinished file. Dropping it removes it.
pub(super) struct Partial {
    output: Output,
    temporary: PathBuf,
    overwrite: bool,
    published: bool,
    /// On what is about to be replaced, so that nobody begins to use it meanwhile.
    replaced: Option<InUse>,
}

impl Partial {
    /// Creates the file that is to be at `path`. Only its owner may read it, half or whole: a
    /// guest's disk holds what the guest keeps secret.
    pub(super) fn create(path: &Path, overwrite: bool) -> Result<Self, TargetError> {
        let found = fs::symlink_metadata(path).ok();
        let exists = found.is_some();
        // What another user's link leads to is not for this one to write.
        let link = found.filter(fs::Metadata::is_symlink);
        if let Some(link) = link.filter(|link| !own::may_follow(link)) {
            let reason = format!("it is a symbolic link that belongs to user {}", link.uid());
            return Err(TargetError::io("replace", path, io::Error::other(reason)));
        }
        let replaced = InUse::lock(path)?;
        if exists && !overwrite {
            return Err(TargetError::Exists {
                path: path.to_owned(),
            });
        }
        // A symbolic link stays one: what it points to is replaced.
        let path = match fs::canonicalize(path) {
            Ok(resolved) => resolved,
            Err(_) => path.to_owned(),
        };
        Self::begin(path, overwrite, replaced)
    }

    /// Creates a file that takes the place of whatever is at `path`, a link included.
    pub(super) fn create_unfollowed(path: &Path) -> Result<Self, TargetError> {
        Self::begin(path.to_owned(), true, None)
    }

    fn begin(path: PathBuf, overwrite: bool, replaced: Option<InUse>) -> Result<Self, TargetError> {
        let Some(name) = path.file_name() else {
            return Err(TargetError::NotAFile { path });
        };
        leftover::remove(&path);
        let mut attempt = 0;
        loop {
            let temporary = path.with_file_name(temporary_name(name, attempt));
            let made = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary);
            match made {
                Ok(file) if !leftover::claim(&file) => attempt += 1,
                Ok(file) => {
                    return Ok(Self {
                        output: Output::new(file, path),
                        temporary,
                        overwrite,
                        published: false,
                        replaced,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
                Err(source) => return Err(TargetError::io("create", &path, source)),
            }
        }
    }

    pub(super) fn output(&self) -> &Output {
        &self.output
    }

    /// Sets the file's length; what is added is a hole.
    pub(super) fn set_len(&self, len: u64) -> Result<(), TargetError> {
        self.output
            .file()
            .set_len(len)
            .map_err(|source| TargetError::io("set the length of", self.output.path(), source))
    }

    /// Makes the file durable, gives it its name, and makes that durable too.
    pub(super) fn publish(mut self) -> Result<PathBuf, TargetError> {
        self.output.sync()?;
        let path = self.output.path().to_owned();
        // What came there since is looked at as well.
        if !self
            .replaced
            .as_ref()
            .is_some_and(|known| known.is_of(&path))
        {
            self.replaced = InUse::lock(&path)?;
        }
        let renamed = match self.overwrite {
            true => renameat(CWD, &self.temporary, CWD, &path),
            false => rename_new(CWD, &self.temporary, &path),
        };
        renamed.map_err(|errno| match errno {
            Errno::EXIST => TargetError::Exists { path: path.clone() },
            _ => TargetError::io("rename the finished file to", &path, errno),
        })?;
        self.published = true;
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| TargetError::io("sync the folder of", &path, source))?;
        Ok(path)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            // Nobody is left to tell; the name says what the file is.
            drop(fs::remove_file(&self.temporary));
        }
    }
}

/// Returns a name that a file has until it is whole. It names the process, so that a leftover can
/// be told from a restore at work.
pub fn temporary_name(name: &OsStr, attempt: u32) -> OsString {
    let mut temporary = prefix(name);
    let process = std::process::id();
    temporary.push(format!("{MARK}{process}-{attempt}{SUFFIX}"));
    temporary
}

/// Returns what the temporary names of a file begin with.
pub(super) fn prefix(name: &OsStr) -> OsString {
    let kept = name.as_bytes().get(..NAME_KEPT).unwrap_or(name.as_bytes());
    let mut prefix = OsString::from(".");
    prefix.push(OsStr::from_bytes(kept));
    prefix
}

/// Renames within a folder without replacing anything, where the file system can only link as
/// well. Where it can do neither, what another process makes at this moment is replaced.
///
/// # Errors
///
/// `EXIST` where something has the name already.
pub fn rename_new(
    folder: impl AsFd,
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
) -> rustix::io::Result<()> {
    let (folder, from, to) = (folder.as_fd(), from.as_ref(), to.as_ref());
    match renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        renamed => return renamed,
    }
    match linkat(folder, from, folder, to, AtFlags::empty()) {
        Ok(()) => return unlinkat(folder, from, AtFlags::empty()),
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        failed => return failed,
    }
    match statat(folder, to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => renameat(folder, from, folder, to),
        Err(errno) => Err(errno),
        Ok(_) => Err(Errno::EXIST),
    }
}
