//! A storage at whose every call other processes may come in between, the process may be killed, or
//! the power cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cairn_engine::id::SessionId;
use cairn_engine::storage::sim::SimFs;
use cairn_engine::storage::{
    Area, CollectionLock, Existing, Folder, Listed, Name, SeenSession, Session, Storage,
    StorageError, Upload,
};

use super::baton::Baton;

/// What goes wrong on purpose, to show that the histories would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Another's pack is built on without the fsync of its folder.
    NoSettle,
}

/// What one process shares with the whole history.
pub struct Stage {
    pub baton: Arc<Baton>,
    pub actor: usize,
    pub disk: SimFs,
    /// Points until the process is killed; none where this is `u32::MAX`.
    pub kill_after: AtomicU32,
    /// Told that the power was cut.
    pub cut: Arc<dyn Fn() + Send + Sync>,
    pub planted: Option<Planted>,
}

impl Stage {
    fn point(&self, what: &str) {
        self.point_at(what, None);
    }

    fn point_at(&self, what: &str, name: Option<&Name>) {
        let name = name.map(|name| name.to_string().chars().take(24).collect::<String>());
        let what = format!("{what} {}", name.unwrap_or_default());
        if self.baton.point(self.actor, &what) {
            (self.cut)();
            return;
        }
        let counted = |left: u32| match left {
            u32::MAX => None,
            left => left.checked_sub(1),
        };
        let order = Ordering::SeqCst;
        if self.kill_after.fetch_update(order, order, counted) == Err(0) {
            self.disk.kill();
        }
    }
}

/// The storage of one process.
pub struct Staged {
    inner: Folder<SimFs>,
    stage: Arc<Stage>,
}

impl Staged {
    pub fn open(stage: &Arc<Stage>) -> Result<Self, StorageError> {
        Ok(Self {
            inner: Folder::open(stage.disk.clone())?,
            stage: Arc::clone(stage),
        })
    }
}

impl Storage for Staged {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn read(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StorageError> {
        if !matches!(name, Name::Config | Name::Note(..)) {
            self.stage.point_at("read", Some(name));
        }
        self.inner.read(name, limit)
    }

    fn read_at(&self, name: &Name, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        // A footer's first read stands for them all: the rest come right after it.
        if offset == 0 {
            self.stage.point_at("read a pack", Some(name));
        }
        self.inner.read_at(name, offset, buf)
    }

    fn len(&self, name: &Name) -> Result<u64, StorageError> {
        self.inner.len(name)
    }

    fn list(&self, area: Area) -> Result<Vec<Listed>, StorageError> {
        self.stage.point(&format!("list {area:?}"));
        self.inner.list(area)
    }

    fn put(
        &self,
        session: SessionId,
        name: &Name,
        bytes: &[u8],
        existing: Existing,
    ) -> Result<(), StorageError> {
        self.stage.point_at("put", Some(name));
        let put = self.inner.put(session, name, bytes, existing);
        self.stage.point("was put");
        put
    }

    fn upload(&self, session: SessionId) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(StagedUpload {
            inner: self.inner.upload(session)?,
            stage: Arc::clone(&self.stage),
        }))
    }

    fn settle(&self, name: &Name) -> Result<(), StorageError> {
        self.stage.point_at("settle", Some(name));
        if self.stage.planted == Some(Planted::NoSettle) && matches!(name, Name::Pack(_)) {
            return Ok(());
        }
        self.inner.settle(name)
    }

    fn delete(&self, name: &Name) -> Result<(), StorageError> {
        self.stage.point_at("delete", Some(name));
        self.inner.delete(name)
    }

    fn set_aside(&self, name: &Name) -> Result<(), StorageError> {
        self.stage.point_at("set aside", Some(name));
        self.inner.set_aside(name)
    }

    fn open_session(&self, document: &[u8]) -> Result<Box<dyn Session>, StorageError> {
        self.stage.point("open a session");
        let session = self.inner.open_session(document);
        self.stage.point("opened a session");
        session
    }

    fn sessions(&self) -> Result<Vec<SeenSession>, StorageError> {
        self.stage.point("list sessions");
        self.inner.sessions()
    }

    fn lock_collection(&self) -> Result<CollectionLock, StorageError> {
        self.stage.point("lock");
        self.inner.lock_collection()
    }

    fn clear_dead_sessions(&self) -> Result<usize, StorageError> {
        self.stage.point("clear");
        self.inner.clear_dead_sessions()
    }
}

struct StagedUpload {
    inner: Box<dyn Upload>,
    stage: Arc<Stage>,
}

impl Upload for StagedUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.inner.write(bytes)
    }

    fn finish(self: Box<Self>, name: &Name) -> Result<(), StorageError> {
        self.stage.point_at("publish", Some(name));
        let finished = self.inner.finish(name);
        self.stage.point("published a pack");
        finished
    }
}
