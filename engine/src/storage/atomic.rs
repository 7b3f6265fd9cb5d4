//! The one way by which a file gets its name.
//!
//! Written in `tmp/`, fsynced, renamed, and then the folder fsynced: whoever sees the name sees all
//! the bytes, and once [`Publisher::publish`] has returned, a power cut takes back neither. A
//! folder made on the way is itself made durable in its parent first, or what is in it would hang
//! in the air.
//!
//! A failed write or fsync of the file makes the file useless: it is abandoned and nothing was
//! published. A failed fsync of a *folder* leaves it open whether names made in it will be there
//! after a power cut, and a second fsync may well report success without having done anything.
//! From then on this process publishes nothing more. What has its name keeps it: it is whole, and
//! another process may have built on it by now.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StorageError;
use super::fs::{FileSystem, OpenFile, RenameMode, parent};
use super::session::{self, SessionLock};

/// What becomes of a file that already has the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clash {
    /// It stays, and publishing fails.
    Refuse,
    /// It is replaced.
    Replace,
    /// It stays, is made durable, and serves as well: names are hashes of the bytes.
    Keep,
}

/// What publishing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    /// The name is the new file's.
    New,
    /// A file of that name was there; under [`Clash::Keep`] it is durable now.
    WasThere,
}

/// Publishes files below one root, for all threads of the process.
pub(super) struct Publisher<F> {
    pub(super) fs: Arc<F>,
    /// Folders known to be durable in their parents. Folders below the areas are never removed,
    /// so what is in here stays true.
    durable: Mutex<BTreeSet<String>>,
    /// The folder whose fsync failed, and the system's reason as a number.
    failed: Mutex<Option<(String, Option<i32>)>>,
}

impl<F: FileSystem> Publisher<F> {
    pub(super) fn new(fs: Arc<F>) -> Self {
        Self {
            fs,
            durable: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Makes a folder in one that is there, or finds it made, and makes it durable in its parent,
    /// as well as those above it.
    pub(super) fn ensure_folder(&self, path: &str) -> Result<(), StorageError> {
        let Some(above) = parent(path) else {
            return Ok(());
        };
        if lock(&self.durable).contains(path) {
            return Ok(());
        }
        self.ensure_folder(above)?;
        match self.fs.make_folder(path) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(StorageError::from_io("create", path, err)),
        }
        // Found made by another process is no proof of durable: that process may not have come to
        // its own fsync yet.
        self.sync_folder(above)?;
        lock(&self.durable).insert(path.to_owned());
        Ok(())
    }

    /// Makes the names in a folder durable. The folder itself is: whoever renamed something into it
    /// has seen to that before.
    pub(super) fn settle(&self, folder: &str) -> Result<(), StorageError> {
        self.sync_folder(folder)
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StorageError> {
        self.check()?;
        self.fs.sync_folder(folder).map_err(|err| {
            let shown = if folder.is_empty() { "." } else { folder };
            // A folder that is not there has lost nothing; any other failure may have.
            if err.kind() != io::ErrorKind::NotFound {
                lock(&self.failed).get_or_insert_with(|| (shown.to_owned(), err.raw_os_error()));
            }
            StorageError::from_io("fsync", shown, err)
        })
    }

    fn check(&self) -> Result<(), StorageError> {
        match &*lock(&self.failed) {
            None => Ok(()),
            Some((object, errno)) => Err(StorageError::PreviousFailure {
                object: object.clone(),
                source: errno.map(io::Error::from_raw_os_error),
            }),
        }
    }

    /// Gives the file at `path` a second one, `to`, in place of what is there. Durable on return.
    pub(super) fn keep(
        &self,
        session: &SessionLock<F>,
        path: &str,
        to: &str,
    ) -> io::Result<Result<(), StorageError>> {
        // By way of a third name: a link does not replace, a rename does.
        let drawn = hex::encode(self.fs.draw()?);
        let draft = format!("{}/{drawn}", session::drafts(session.id()));
        self.fs.link(path, &draft)?;
        let renamed = self.fs.rename(&draft, to, RenameMode::Replace);
        // Where both were names of one file already, nothing was renamed.
        drop(self.fs.remove_file(&draft));
        renamed?;
        Ok(self.settle(parent(to).unwrap_or_default()))
    }

    /// Begins a file that has no name yet. The session lasts at least as long as the file.
    pub(super) fn begin(
        self: &Arc<Self>,
        session: Arc<SessionLock<F>>,
    ) -> Result<Draft<F>, StorageError> {
        self.check()?;
        let folder = session::drafts(session.id());
        let drawn = self
            .fs
            .draw()
            .map_err(|err| StorageError::from_io("create", &folder, err))?;
        let path = format!("{folder}/{}", hex::encode(drawn));
        let file = self
            .fs
            .create_new(&path)
            .map_err(|err| StorageError::from_io("create", &path, err))?;
        Ok(Draft {
            publisher: Arc::clone(self),
            file,
            path,
            failed: false,
            named: false,
            _session: session,
        })
    }
}

/// A file without a name. Dropping it removes it.
pub(super) struct Draft<F: FileSystem> {
    publisher: Arc<Publisher<F>>,
    file: F::File,
    path: String,
    failed: bool,
    named: bool,
    /// Whoever waits for the session to end waits for this file too.
    _session: Arc<SessionLock<F>>,
}

impl<F: FileSystem> Draft<F> {
    /// Appends bytes. After an error, every later call fails.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.check()?;
        self.file.append(bytes).map_err(|err| {
            self.failed = true;
            StorageError::from_io("write", &self.path, err)
        })
    }

    /// Fills `buf` from `offset` with what was written.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        let read = self.file.read_exact_at(buf, offset);
        read.map_err(|err| StorageError::from_io("read", &self.path, err))
    }

    fn check(&self) -> Result<(), StorageError> {
        if self.failed {
            return Err(StorageError::PreviousFailure {
                object: self.path.clone(),
                source: None,
            });
        }
        Ok(())
    }

    /// Gives the file its name. Durable on return, with [`Published::WasThere`] under
    /// [`Clash::Refuse`] excepted, where nothing was done.
    pub(super) fn publish(mut self, path: &str, clash: Clash) -> Result<Published, StorageError> {
        self.check()?;
        self.file
            .sync()
            .map_err(|err| StorageError::from_io("fsync", &self.path, err))?;
        let publisher = Arc::clone(&self.publisher);
        publisher.check()?;
        let folder = parent(path).expect("an object's path names a file");
        publisher.ensure_folder(folder)?;
        let mode = match clash {
            Clash::Replace => RenameMode::Replace,
            Clash::Refuse | Clash::Keep => RenameMode::NoReplace,
        };
        match publisher.fs.rename(&self.path, path, mode) {
            Ok(()) => {
                self.named = true;
                publisher.sync_folder(folder)?;
                Ok(Published::New)
            }
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                if clash == Clash::Keep {
                    publisher.sync_folder(folder)?;
                }
                Ok(Published::WasThere)
            }
            Err(err) => Err(StorageError::from_io("rename", path, err)),
        }
    }
}

impl<F: FileSystem> Drop for Draft<F> {
    fn drop(&mut self) {
        if !self.named {
            // Left behind where this fails, it goes with the session's folder.
            drop(self.publisher.fs.remove_file(&self.path));
        }
    }
}

/// Locks a mutex whose holders leave it whole whenever they could panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
