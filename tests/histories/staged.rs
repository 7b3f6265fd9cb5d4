//! A disk at whose every call other processes may come in between, the process may be killed, or
//! the power cut.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cairn_engine::storage::sim::{SimFile, SimFs};
use cairn_engine::storage::{Entry, FileSystem, LockMode, OpenFile, RenameMode};

use super::baton::Baton;

/// What one process shares with the whole history.
pub struct Stage {
    pub baton: Arc<Baton>,
    pub actor: usize,
    pub disk: SimFs,
    /// Points until the process is killed; none where this is `u32::MAX`.
    pub kill_after: AtomicU32,
    /// Told that the power was cut.
    pub cut: Arc<dyn Fn() + Send + Sync>,
}

impl Stage {
    fn point(&self, what: &str, path: &str) {
        let path: String = path.chars().take(30).collect();
        if self.baton.point(self.actor, &format!("{what} {path}")) {
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

/// The disk, as one process sees it.
pub struct StagedFs(pub Arc<Stage>);

/// A file of such a disk.
pub struct StagedFile {
    inner: SimFile,
    stage: Arc<Stage>,
    path: String,
}

impl StagedFs {
    fn file(&self, inner: SimFile, path: &str) -> StagedFile {
        StagedFile {
            inner,
            stage: Arc::clone(&self.0),
            path: path.to_owned(),
        }
    }
}

impl OpenFile for StagedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.append(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.stage.point("sync", &self.path);
        self.inner.sync()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.path.starts_with("packs") {
            self.stage.point("read", &self.path);
        }
        self.inner.read_exact_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn try_lock(&self, mode: LockMode) -> io::Result<bool> {
        self.stage.point("lock", &self.path);
        self.inner.try_lock(mode)
    }
}

impl FileSystem for StagedFs {
    type File = StagedFile;

    fn location(&self) -> String {
        self.0.disk.location()
    }

    fn unsuitable(&self) -> io::Result<Option<&'static str>> {
        self.0.disk.unsuitable()
    }

    fn draw(&self) -> io::Result<[u8; 16]> {
        self.0.disk.draw()
    }

    fn create_new(&self, path: &str) -> io::Result<StagedFile> {
        Ok(self.file(self.0.disk.create_new(path)?, path))
    }

    fn open(&self, path: &str) -> io::Result<StagedFile> {
        self.0.point("open", path);
        Ok(self.file(self.0.disk.open(path)?, path))
    }

    fn is_named(&self, file: &StagedFile, path: &str) -> io::Result<bool> {
        self.0.disk.is_named(&file.inner, path)
    }

    fn rename(&self, from: &str, to: &str, mode: RenameMode) -> io::Result<()> {
        self.0.point("rename to", to);
        self.0.disk.rename(from, to, mode)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.point("link to", to);
        self.0.disk.link(from, to)
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.0.point("sync", path);
        self.0.disk.sync_folder(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        if !path.contains('/') {
            self.0.point("list", path);
        }
        self.0.disk.list(path)
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.0.disk.make_folder(path)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.0.point("remove", path);
        self.0.disk.remove_file(path)
    }

    fn remove_folder(&self, path: &str) -> io::Result<()> {
        self.0.disk.remove_folder(path)
    }
}
