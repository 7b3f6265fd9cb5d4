//! Sessions of the local kind: who is at work, and clearing up after the dead.
//!
//! A session is a file in `locks/`, held under an exclusive `flock` that the kernel gives up when
//! the process ends, however it ends. Its unfinished files stand in `tmp/<session>/`. Ids are
//! random and never used again. The order of steps keeps two rules true at every instant:
//!
//! 1. A file in `locks/` that is not locked belongs to nobody alive. It is made and locked as
//!    `tmp/<session>.session`, written, and only then renamed into `locks/`; the lock stays with
//!    the file.
//! 2. While `tmp/<session>/` exists, so does `locks/<session>`: the folder is made after the rename
//!    and removed before the file. (A power cut may leave a folder alone; then nobody lives.)
//!
//! A cleaner removes a dead session's files only while it holds that session's lock itself:
//!
//! - Against another cleaner: one of them gets the lock. The other sees it taken, or gets it after
//!   the first has closed the file, and then finds that the path no longer names what it locked.
//! - Against a session that is starting: between the making of `tmp/<session>.session` and its lock
//!   a cleaner may be faster. Then the starter fails to lock, or to rename what is no longer there,
//!   and starts again under another id. Once the starter has the lock, no cleaner gets it.
//! - Against a folder `tmp/<session>/` without a file in `locks/`: looked for *after* the folder
//!   was seen. By rule 2 the session had a file then; it has none now, so it ended in between, or
//!   never lived in this boot. Either way nobody uses the folder, and a file that is gone already
//!   is no error.
//!
//! Nothing here is fsynced. After a power cut every session is dead, whatever of these files is
//! left, torn or whole, and is cleared like any other.

use std::io;
use std::sync::Arc;

use super::fs::{EntryKind, FileSystem, LockMode, OpenFile, RenameMode};
use super::{SeenSession, Session, StorageError};
use crate::id::SessionId;
use crate::limits::SESSION_LEN_MAX;

/// Where sessions are seen.
pub(super) const LOCKS: &str = "locks";
/// Where unfinished files are.
pub(super) const TMP: &str = "tmp";
/// Ends the name of a session file that is not visible yet.
const STARTING: &str = ".session";
/// Tries to start a session before giving up; each fails only if a cleaner comes between two calls.
const START_TRIES: usize = 16;

/// Returns the folder of a session's unfinished files.
pub(super) fn drafts(id: SessionId) -> String {
    format!("{TMP}/{id}")
}

fn file_of(id: SessionId) -> String {
    format!("{LOCKS}/{id}")
}

/// A session of this process, which ends when this is dropped.
pub(super) struct SessionLock<F: FileSystem> {
    fs: Arc<F>,
    id: SessionId,
    _file: F::File,
}

impl<F: FileSystem> SessionLock<F> {
    pub(super) fn id(&self) -> SessionId {
        self.id
    }

    /// Starts a session: visible, and locked, on return.
    pub(super) fn start(fs: &Arc<F>, document: &[u8]) -> Result<Self, StorageError> {
        for _ in 0..START_TRIES {
            if let Some(started) = Self::try_start(fs, document)? {
                return Ok(started);
            }
        }
        Err(StorageError::Locked {
            object: LOCKS.to_owned(),
        })
    }

    fn try_start(fs: &Arc<F>, document: &[u8]) -> Result<Option<Self>, StorageError> {
        let failed = |object: &str, err| StorageError::from_io("start", object, err);
        let id = SessionId::from_bytes(fs.draw().map_err(|err| failed(LOCKS, err))?);
        let (starting, path) = (format!("{TMP}/{id}{STARTING}"), file_of(id));
        let mut file = fs
            .create_new(&starting)
            .map_err(|err| failed(&starting, err))?;
        if !file
            .try_lock(LockMode::Exclusive)
            .map_err(|err| failed(&starting, err))?
        {
            return Ok(None);
        }
        let visible = file
            .append(document)
            .and_then(|()| fs.rename(&starting, &path, RenameMode::NoReplace));
        match visible {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => {
                drop(fs.remove_file(&starting));
                return Err(failed(&path, err));
            }
        }
        // From here on dropping removes the file.
        let session = Self {
            fs: Arc::clone(fs),
            id,
            _file: file,
        };
        let folder = drafts(id);
        fs.make_folder(&folder)
            .map_err(|err| failed(&folder, err))?;
        Ok(Some(session))
    }
}

impl<F: FileSystem> Drop for SessionLock<F> {
    fn drop(&mut self) {
        // What fails here is left to the next cleaner. The lock goes last, with the file.
        if remove_folder(&*self.fs, &drafts(self.id)).is_ok() {
            drop(self.fs.remove_file(&file_of(self.id)));
        }
    }
}

/// What callers hold.
pub(super) struct LocalSession<F: FileSystem>(pub(super) Arc<SessionLock<F>>);

impl<F: FileSystem> Session for LocalSession<F> {
    fn id(&self) -> SessionId {
        self.0.id
    }
}

/// Returns the sessions that are visible.
pub(super) fn seen<F: FileSystem>(fs: &F) -> Result<Vec<SeenSession>, StorageError> {
    let mut sessions = Vec::new();
    for id in listed(fs)? {
        let path = file_of(id);
        let failed = |err| StorageError::from_io("read", &path, err);
        let Some(file) = open(fs, &path).map_err(failed)? else {
            continue;
        };
        // A shared lock, so that two who look at once do not take each other for the session.
        let alive = !file.try_lock(LockMode::Shared).map_err(failed)?;
        if !alive && !fs.is_named(&file, &path).map_err(failed)? {
            continue;
        }
        let len = file.len().map_err(failed)?.min(SESSION_LEN_MAX);
        let len = usize::try_from(len).expect("a small document's length");
        let mut document = vec![0; len];
        file.read_exact_at(&mut document, 0).map_err(failed)?;
        sessions.push(SeenSession {
            id,
            alive,
            document,
        });
    }
    sessions.sort_by_key(|session| session.id);
    Ok(sessions)
}

fn listed<F: FileSystem>(fs: &F) -> Result<Vec<SessionId>, StorageError> {
    let entries = fs
        .list(LOCKS)
        .map_err(|err| StorageError::from_io("list", LOCKS, err))?;
    Ok(entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::File)
        .filter_map(|entry| entry.name.parse().ok())
        .collect())
}

/// Removes what dead sessions left, and returns how many there were.
pub(super) fn clear_dead<F: FileSystem>(fs: &F) -> Result<usize, StorageError> {
    let mut cleared = 0;
    for id in listed(fs)? {
        let path = file_of(id);
        let done = clear_if_dead(fs, &path, || remove_folder(fs, &drafts(id)));
        cleared += usize::from(allowed(done)?);
    }
    // Listed only now: by rule 2 the folder of a session that is in `locks/` is its own matter.
    let entries = fs
        .list(TMP)
        .map_err(|err| StorageError::from_io("list", TMP, err))?;
    for entry in entries {
        let path = format!("{TMP}/{}", entry.name);
        let done = match (entry.kind, entry.name.strip_suffix(STARTING)) {
            (EntryKind::File, Some(id)) if id.parse::<SessionId>().is_ok() => {
                allowed(clear_if_dead(fs, &path, || Ok(())))?
            }
            (EntryKind::Folder, None) => match entry.name.parse() {
                Ok(id) => allowed(clear_orphan(fs, id))?,
                Err(_) => false,
            },
            _ => false,
        };
        cleared += usize::from(done);
    }
    Ok(cleared)
}

/// Passes over what this user may not clear: another's, which stays for somebody who may.
fn allowed(cleared: Result<bool, StorageError>) -> Result<bool, StorageError> {
    match cleared {
        Err(error) if error.is_unwritable() => Ok(false),
        cleared => cleared,
    }
}

/// Removes a session file that nobody holds, after what belongs to it.
fn clear_if_dead<F: FileSystem>(
    fs: &F,
    path: &str,
    belongings: impl FnOnce() -> Result<(), StorageError>,
) -> Result<bool, StorageError> {
    let failed = |err| StorageError::from_io("clear", path, err);
    let Some(file) = open(fs, path).map_err(failed)? else {
        return Ok(false);
    };
    if !file.try_lock(LockMode::Exclusive).map_err(failed)? {
        return Ok(false);
    }
    if !fs.is_named(&file, path).map_err(failed)? {
        return Ok(false);
    }
    belongings()?;
    fs.remove_file(path).or_else(gone).map_err(failed)?;
    Ok(true)
}

/// Removes a session's folder if the session has no file.
fn clear_orphan<F: FileSystem>(fs: &F, id: SessionId) -> Result<bool, StorageError> {
    let path = file_of(id);
    let open = open(fs, &path).map_err(|err| StorageError::from_io("read", &path, err))?;
    if open.is_some() {
        return Ok(false);
    }
    remove_folder(fs, &drafts(id))?;
    Ok(true)
}

fn open<F: FileSystem>(fs: &F, path: &str) -> io::Result<Option<F::File>> {
    match fs.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Removes a folder and all that is in it. What is gone already is no error.
fn remove_folder<F: FileSystem>(fs: &F, path: &str) -> Result<(), StorageError> {
    let failed = |err| StorageError::from_io("remove", path, err);
    let entries = match fs.list(path) {
        Ok(entries) => entries,
        Err(err) => return gone(err).map_err(failed),
    };
    for entry in entries {
        let inside = format!("{path}/{}", entry.name);
        match entry.kind {
            EntryKind::Folder => remove_folder(fs, &inside)?,
            _ => fs.remove_file(&inside).or_else(gone).map_err(failed)?,
        }
    }
    fs.remove_folder(path).or_else(gone).map_err(failed)
}

fn gone(err: io::Error) -> io::Result<()> {
    if err.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(err)
    }
}
