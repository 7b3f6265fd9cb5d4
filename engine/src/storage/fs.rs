//! The seam below the local kind: what `Folder` asks of a file system, and nothing more.
//!
//! The code that decides what is written in which order stands above this seam, so that it runs
//! unchanged over a real disk ([`RealFs`](super::RealFs)) and over a simulated one
//! ([`SimFs`](super::sim::SimFs)). Paths are relative to the root, with `/` between folders; the
//! root itself is the empty path.

use std::io;

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; names that are not UTF-8 are left out, Cairn makes none.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Its length in bytes; 0 for anything but a regular file.
    pub len: u64,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Anything else: a link, a device, a socket.
    Other,
}

/// What a rename does with a file that already has the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Fails with [`io::ErrorKind::AlreadyExists`].
    NoReplace,
    /// Replaces it, atomically.
    Replace,
}

/// How a file is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Together with other shared locks.
    Shared,
    /// Alone.
    Exclusive,
}

/// An open file. Dropping it closes it, which gives up its lock. Child processes do not inherit it.
pub trait OpenFile: Send + Sync {
    /// Appends all of `bytes`. On an error, part of them may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable. The file's name is the folder's matter.
    ///
    /// After a failure the bytes may be lost whatever a later call says: the system reports a lost
    /// page once. The file must be abandoned.
    fn sync(&self) -> io::Result<()>;

    /// Fills `buf` from `offset`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Returns whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Tries to lock the file, without waiting, and returns whether it could. The lock lasts until
    /// the file is closed, by whatever way its process ends.
    fn try_lock(&self, mode: LockMode) -> io::Result<bool>;
}

/// A file system, from one root folder downward. Shared by threads.
pub trait FileSystem: Send + Sync + 'static {
    /// An open file.
    type File: OpenFile + 'static;

    /// Returns a name of the root for people.
    fn location(&self) -> String;

    /// Returns the kind of file system where it is one that cannot keep a repository: one whose
    /// locks, renames or fsyncs do not hold what the local kind builds on.
    fn unsuitable(&self) -> io::Result<Option<&'static str>>;

    /// Returns 16 random bytes, for names that nobody else draws.
    fn draw(&self) -> io::Result<[u8; 16]>;

    /// Creates a file that is not there yet, and opens it for writing.
    fn create_new(&self, path: &str) -> io::Result<Self::File>;

    /// Opens a file for reading.
    fn open(&self, path: &str) -> io::Result<Self::File>;

    /// Returns whether `path` names this very file now.
    fn is_named(&self, file: &Self::File, path: &str) -> io::Result<bool>;

    /// Gives a file another name, atomically as others see it. What a power cut leaves is decided
    /// by [`FileSystem::sync_folder`] of both folders.
    fn rename(&self, from: &str, to: &str, mode: RenameMode) -> io::Result<()>;

    /// Gives a file one more name, which nothing has yet.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the entries of a folder durable: creations, renames and removals. The folder's own
    /// entry is its parent's matter. Never to be retried after a failure, as [`OpenFile::sync`].
    fn sync_folder(&self, path: &str) -> io::Result<()>;

    /// Lists a folder, in no particular order. Entries that come or go meanwhile may be left out.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;

    /// Makes a folder in one that is there.
    fn make_folder(&self, path: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Removes an empty folder.
    fn remove_folder(&self, path: &str) -> io::Result<()>;
}

/// Returns the folder that a path stands in, or `None` for the root.
pub(super) fn parent(path: &str) -> Option<&str> {
    if path.is_empty() {
        return None;
    }
    Some(path.rsplit_once('/').map_or("", |(folder, _)| folder))
}
