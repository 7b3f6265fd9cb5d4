//! The local kind of storage: a folder on a disk of this machine.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use super::atomic::{Clash, Draft, Published, Publisher, lock};
use super::fs::{Entry, EntryKind, FileSystem, LockMode, OpenFile, RenameMode, parent};
use super::handles::Handles;
use super::real::RealFs;
use super::reserve;
use super::session::{self, LocalSession, SessionLock};
use super::{
    Area, CollectionLock, Existing, Listed, Name, SeenSession, Session, Storage, StorageError,
    Upload,
};
use crate::id::SessionId;

/// Where a collection keeps its plan.
const GC: &str = "gc";
/// Locked by the one collection at work; never removed, so that all lock the same file.
const COLLECTION_LOCK: &str = "gc/lock";

/// What is set aside goes here; no area is below it.
const DAMAGED: &str = "damaged";

/// Every folder that a repository has from its beginning.
const LAYOUT: [&str; 7] = [
    "packs",
    "snapshots",
    "notes",
    "keys",
    GC,
    session::LOCKS,
    session::TMP,
];

/// Puts a disk's recovery folder, which every fresh ext4 has, beside what counts as content.
const LOST_AND_FOUND: &str = "lost+found";

/// A folder that keeps a repository. `F` is a real disk, or a simulated one in tests.
pub struct Folder<F: FileSystem> {
    fs: Arc<F>,
    publisher: Arc<Publisher<F>>,
    packs: Arc<Handles<F::File>>,
    sessions: Mutex<Vec<Weak<SessionLock<F>>>>,
}

impl Folder<RealFs> {
    /// Lays a repository out at a path. See [`Folder::create`].
    pub fn create_at(path: &Path) -> Result<Self, StorageError> {
        Self::create(RealFs::create(path)?)
    }

    /// Lays a repository out at a path as [`Folder::create_at`] does, and shares it with the
    /// folder's group.
    pub fn create_shared_at(path: &Path) -> Result<Self, StorageError> {
        // Before its mode is changed: it may hold something else.
        let mut fs = RealFs::create(path)?;
        Self::open(RealFs::create(path)?)?.check_empty()?;
        let shared = fs.share_with_group();
        shared.map_err(|err| StorageError::from_io("share", &path.to_string_lossy(), err))?;
        Self::create(fs)
    }

    /// Opens the folder of a repository. See [`Folder::open`].
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] of [`Name::Config`] if there is no such folder.
    pub fn open_at(path: &Path) -> Result<Self, StorageError> {
        let fs = RealFs::open(path).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                StorageError::NotFound(Name::Config)
            }
            _ => StorageError::from_io("open", &path.to_string_lossy(), err),
        })?;
        Self::open(fs)
    }
}

impl<F: FileSystem> Folder<F> {
    /// Makes the empty folders of a repository, durable on return.
    ///
    /// Goes on with what an earlier call left that did not come to its end: a repository exists
    /// when its config does.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotEmpty`] if anything is there but such folders, all empty, and a
    /// `lost+found`;
    /// [`StorageError::Unsuitable`] for kinds of file system that cannot keep a repository.
    pub fn create(fs: F) -> Result<Self, StorageError> {
        let folder = Self::open(fs)?;
        folder.check_empty()?;
        for path in LAYOUT {
            folder.publisher.ensure_folder(path)?;
        }
        Ok(folder)
    }

    /// Fails if anything is there but what a repository begins with.
    fn check_empty(&self) -> Result<(), StorageError> {
        for Entry { name, kind, .. } in self.list_folder("")? {
            let at_work = matches!(name.as_str(), session::LOCKS | session::TMP);
            let ours = kind == EntryKind::Folder
                && LAYOUT.contains(&name.as_str())
                && (at_work || self.list_folder(&name)?.is_empty());
            if !ours && name != LOST_AND_FOUND {
                return Err(StorageError::NotEmpty {
                    location: self.location(),
                });
            }
        }
        Ok(())
    }

    /// Opens the folder of a repository. Whether there is one is known by its config.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unsuitable`] for kinds of file system that cannot keep a repository.
    pub fn open(fs: F) -> Result<Self, StorageError> {
        let location = fs.location();
        let kind = fs
            .unsuitable()
            .map_err(|err| StorageError::from_io("examine", &location, err))?;
        if let Some(kind) = kind {
            return Err(StorageError::Unsuitable {
                location,
                kind: kind.to_owned(),
            });
        }
        let fs = Arc::new(fs);
        Ok(Self {
            publisher: Arc::new(Publisher::new(Arc::clone(&fs))),
            fs,
            packs: Arc::new(Handles::new()),
            sessions: Mutex::default(),
        })
    }

    fn list_folder(&self, path: &str) -> Result<Vec<Entry>, StorageError> {
        let shown = if path.is_empty() { "." } else { path };
        self.fs
            .list(path)
            .map_err(|err| StorageError::from_io("list", shown, err))
    }

    /// Lists the folders in a folder.
    fn list_folders(&self, path: &str) -> Result<Vec<String>, StorageError> {
        Ok(self
            .list_folder(path)?
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::Folder)
            .map(|entry| format!("{path}/{}", entry.name))
            .collect())
    }

    fn open_object(&self, name: &Name) -> Result<Arc<F::File>, StorageError> {
        let open = || {
            self.fs
                .open(&name.path())
                .map_err(|err| absent(name, "open", err))
        };
        match name {
            // Packs never change and are read in many pieces. What is replaced must not be kept
            // open, or its readers would see the old one for ever.
            Name::Pack(_) => self.packs.get(name, open),
            _ => open().map(Arc::new),
        }
    }

    fn session(&self, id: SessionId) -> Result<Arc<SessionLock<F>>, StorageError> {
        let sessions = lock(&self.sessions);
        let mut alive = sessions.iter().filter_map(Weak::upgrade);
        let session = alive.find(|session| session.id() == id);
        session.ok_or_else(|| StorageError::PreviousFailure {
            object: format!("session {id}"),
            source: None,
        })
    }

    /// Says of the whole folder what showed at a session's file.
    fn unwritable(&self, error: StorageError) -> StorageError {
        match error {
            StorageError::Io { source, .. } => StorageError::Unwritable {
                location: self.location(),
                source,
            },
            error => error,
        }
    }

    fn begin(&self, id: SessionId) -> Result<Draft<F>, StorageError> {
        self.publisher.begin(self.session(id)?)
    }
}

/// Returns where an object goes that is set aside.
fn aside(name: &Name) -> String {
    let path = name.path();
    let last = path
        .rsplit_once('/')
        .map_or(path.as_str(), |(_, last)| last);
    format!("{DAMAGED}/{last}")
}

/// Tells an object that is not there from one that cannot be had.
fn absent(name: &Name, op: &'static str, err: io::Error) -> StorageError {
    if err.kind() == io::ErrorKind::NotFound {
        return StorageError::NotFound(*name);
    }
    StorageError::from_io(op, &name.path(), err)
}

fn read_exact<F: OpenFile>(
    file: &F,
    name: &Name,
    offset: u64,
    buf: &mut [u8],
) -> Result<(), StorageError> {
    file.read_exact_at(buf, offset)
        .map_err(|err| match err.kind() {
            io::ErrorKind::UnexpectedEof => {
                let end = offset.saturating_add(buf.len() as u64);
                StorageError::ShortRead { name: *name, end }
            }
            _ => StorageError::from_io("read", &name.path(), err),
        })
}

impl<F: FileSystem> Storage for Folder<F> {
    fn location(&self) -> String {
        self.fs.location()
    }

    fn read(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StorageError> {
        let file = self.open_object(name)?;
        let len = file
            .len()
            .map_err(|err| StorageError::from_io("read", &name.path(), err))?;
        let too_long = || StorageError::TooLong {
            name: *name,
            len,
            limit,
        };
        if len > limit {
            return Err(too_long());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_long())?];
        read_exact(&*file, name, 0, &mut bytes)?;
        Ok(bytes)
    }

    fn read_at(&self, name: &Name, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        read_exact(&*self.open_object(name)?, name, offset, buf)
    }

    fn len(&self, name: &Name) -> Result<u64, StorageError> {
        let file = self.open_object(name)?;
        file.len()
            .map_err(|err| StorageError::from_io("measure", &name.path(), err))
    }

    fn list(&self, area: Area) -> Result<Vec<Listed>, StorageError> {
        let folders = match area {
            Area::Packs => self.list_folders("packs")?,
            // Made with the first parity: not every repository has any.
            Area::Parity => match self.list_folders("parity") {
                Err(StorageError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    Vec::new()
                }
                listed => listed?,
            },
            Area::Notes => self.list_folders("notes")?,
            Area::Snapshots => vec!["snapshots".to_owned()],
            Area::Keys => vec!["keys".to_owned()],
        };
        let mut found = Vec::new();
        for folder in folders {
            let entries = self.list_folder(&folder)?;
            found.extend(entries.iter().filter_map(|entry| {
                let name = Name::from_path(&format!("{folder}/{}", entry.name))?;
                (entry.kind == EntryKind::File).then_some(Listed {
                    name,
                    len: entry.len,
                })
            }));
        }
        found.sort();
        Ok(found)
    }

    fn put(
        &self,
        session: SessionId,
        name: &Name,
        bytes: &[u8],
        existing: Existing,
    ) -> Result<(), StorageError> {
        let clash = match existing {
            Existing::Refuse => Clash::Refuse,
            Existing::Replace => Clash::Replace,
        };
        let mut draft = self.begin(session)?;
        draft.write(bytes)?;
        match draft.publish(&name.path(), clash)? {
            Published::New => Ok(()),
            Published::WasThere => Err(StorageError::Exists(*name)),
        }
    }

    fn upload(&self, session: SessionId) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(FolderUpload {
            draft: self.begin(session)?,
            packs: Arc::clone(&self.packs),
        }))
    }

    fn settle(&self, name: &Name) -> Result<(), StorageError> {
        let path = name.path();
        self.publisher
            .settle(parent(&path).expect("an object's path names a file"))
    }

    fn delete(&self, name: &Name) -> Result<(), StorageError> {
        self.packs.forget(name);
        match self.fs.remove_file(&name.path()) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::from_io("delete", &name.path(), err))
            }
            _ => Ok(()),
        }
    }

    fn set_aside(&self, name: &Name) -> Result<(), StorageError> {
        self.packs.forget(name);
        self.publisher.ensure_folder(DAMAGED)?;
        self.fs
            .rename(&name.path(), &aside(name), RenameMode::Replace)
            .map_err(|err| absent(name, "set aside", err))?;
        // Its new name first: a power cut must not leave it without any.
        self.publisher.settle(DAMAGED)?;
        self.settle(name)
    }

    fn keep_aside(&self, session: SessionId, name: &Name) -> Result<(), StorageError> {
        let session = self.session(session)?;
        self.publisher.ensure_folder(DAMAGED)?;
        let kept = self.publisher.keep(&session, &name.path(), &aside(name));
        kept.map_err(|err| absent(name, "set aside", err))?
    }

    fn open_session(&self, document: &[u8]) -> Result<Box<dyn Session>, StorageError> {
        let session = match SessionLock::start(&self.fs, document) {
            // Whoever restores from a full medium, or frees it, needs a session.
            Err(StorageError::NoSpace { .. }) if self.release_reserve()? => {
                SessionLock::start(&self.fs, document)?
            }
            Err(error) if error.is_unwritable() => return Err(self.unwritable(error)),
            started => started?,
        };
        let session = Arc::new(session);
        let mut sessions = lock(&self.sessions);
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(&session));
        drop(sessions);
        Ok(Box::new(LocalSession(session)))
    }

    fn sessions(&self) -> Result<Vec<SeenSession>, StorageError> {
        session::seen(&*self.fs)
    }

    fn lock_collection(&self) -> Result<CollectionLock, StorageError> {
        let failed = |err| match StorageError::from_io("lock", COLLECTION_LOCK, err) {
            error if error.is_unwritable() => self.unwritable(error),
            error => error,
        };
        let file = match self.fs.open(COLLECTION_LOCK) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                self.publisher.ensure_folder(GC)?;
                match self.fs.create_new(COLLECTION_LOCK) {
                    // Another was faster. The file stays for good, so it is there now.
                    Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                        self.fs.open(COLLECTION_LOCK)
                    }
                    made => made,
                }
            }
            opened => opened,
        };
        let file = file.map_err(failed)?;
        match file.try_lock(LockMode::Exclusive).map_err(failed)? {
            true => Ok(CollectionLock::new(file)),
            false => Err(StorageError::Locked {
                object: COLLECTION_LOCK.to_owned(),
            }),
        }
    }

    fn keep_reserve(&self) -> Result<(), StorageError> {
        reserve::keep(&*self.fs)
    }

    fn release_reserve(&self) -> Result<bool, StorageError> {
        reserve::release(&*self.fs)
    }

    fn clear_dead_sessions(&self) -> Result<usize, StorageError> {
        session::clear_dead(&*self.fs)
    }
}

/// A file without a name, of a repository that may have the one open which it is to replace.
struct FolderUpload<F: FileSystem> {
    draft: Draft<F>,
    packs: Arc<Handles<F::File>>,
}

impl<F: FileSystem> Upload for FolderUpload<F> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.draft.write(bytes)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.draft.read_at(offset, buf)
    }

    fn replace(self: Box<Self>, name: &Name) -> Result<(), StorageError> {
        let done = self.draft.publish(&name.path(), Clash::Replace);
        self.packs.forget(name);
        done.map(|_| ())
    }

    fn finish(self: Box<Self>, name: &Name) -> Result<(), StorageError> {
        self.draft.publish(&name.path(), Clash::Keep).map(|_| ())
    }
}
