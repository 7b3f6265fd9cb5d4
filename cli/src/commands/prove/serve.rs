//! The disks of a snapshot, served to a throw-away domain by this process.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use cairn_engine::image::{CACHE_BYTES_DEFAULT, ImageCache};
use cairn_engine::repository::{Contents, Snapshot, SnapshotList};
use cairn_engine::threads::Joined;
use cairn_nbd_export::exports::{Export, Exports};
use cairn_nbd_export::listen::Listener;
use cairn_nbd_export::log::Event;
use cairn_nbd_export::server::{Server, ServerOptions};
use cairn_nbd_export::snapshot::SnapshotDisk;
use cairn_nbd_export::stop::Stop;

use crate::exit::one_line;

/// Who may use the socket: QEMU's group is that of the folder.
const SOCKET_MODE: u32 = 0o660;

/// The server; it ends when this is dropped.
pub struct Served {
    stop: Stop,
    thread: Option<Joined>,
    failed: Arc<Mutex<Option<String>>>,
}

impl Served {
    /// Serves each disk read-only, under its target.
    pub fn start(
        contents: &Arc<Contents>,
        list: &SnapshotList,
        snapshot: &Snapshot,
        socket: &Path,
        options: ServerOptions,
    ) -> Result<Self> {
        let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
        let mut exports = Vec::new();
        for disk in &snapshot.manifest.disks {
            let opened = SnapshotDisk::open(contents, list, snapshot, disk, &cache);
            let opened = opened.with_context(|| format!("cannot open disk {}", disk.target))?;
            exports.push(Export {
                name: disk.target.clone(),
                aliases: Vec::new(),
                description: String::new(),
                disk: Arc::new(opened),
                changes: None,
            });
        }
        let failed = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&failed);
        let log = move |event: &Event<'_>| {
            if let Event::DiskFailed { export, error } = event {
                let mut line = format!("{export}: {error}");
                let mut cause = std::error::Error::source(*error);
                while let Some(source) = cause {
                    line = format!("{line}: {source}");
                    cause = source.source();
                }
                let mut first = noted.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(line);
            }
        };
        let exports = Exports::new(exports).context("cannot serve the disks")?;
        let listener = Listener::unix(socket, SOCKET_MODE)?;
        let server = Server::new(exports, options, Arc::new(log));
        let server = server.context("cannot start the server")?;
        let stop = Stop::new().context("cannot start the server")?;
        let (asked, noted) = (stop.clone(), Arc::clone(&failed));
        let serve = move || {
            if let Err(error) = server.run(vec![listener], &asked) {
                let mut first = noted.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(one_line(&error.into()));
            }
        };
        let thread = Joined::start("serve", serve);
        Ok(Self {
            stop,
            thread: Some(thread.context("cannot start the server")?),
            failed,
        })
    }

    /// Returns why a disk could not be read, if one could not.
    pub fn failure(&self) -> Option<String> {
        let first = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        first.clone()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.stop();
        drop(self.thread.take());
    }
}
