//! What every restore of a snapshot begins with.

use std::sync::Arc;

use anyhow::Result;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{Access, Contents, Repository, Snapshot};
use cairn_engine::restore::RestoreOptions;

use crate::context::Context;
use crate::output::progress::Meter;
use crate::session;

/// What restores have in common: the snapshot's contents, and how they are watched.
pub struct Work {
    /// What the repository holds.
    pub contents: Arc<Contents>,
    cancel: Cancel,
    progress: Arc<Progress>,
    threads: usize,
    /// Shows how far the restore is, until it is dropped.
    pub meter: Meter,
}

impl Work {
    /// Begins a restore of a snapshot.
    pub fn begin(
        repository: &Arc<Repository>,
        snapshot: &Snapshot,
        context: &Context,
    ) -> Result<Self> {
        let access = Access::Read(vec![snapshot.id]);
        let contents = session::contents(context, repository, access, "restore")?;
        let progress = Arc::new(Progress::default());
        Ok(Self {
            contents: Arc::new(contents),
            cancel: context.cancel()?,
            threads: context.threads().get(),
            meter: context.meter("restore", &progress),
            progress,
        })
    }

    /// Returns how to learn that someone asked to stop.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Returns how disks are restored.
    pub fn options(&self) -> RestoreOptions<'_> {
        RestoreOptions {
            threads: self.threads,
            progress: &self.progress,
            cancel: &self.cancel,
        }
    }
}
