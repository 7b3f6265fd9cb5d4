//! What this client remembers of a repository: the newest snapshot that it saw there, and where it
//! remembers what it verified.
//!
//! Whoever can write to the storage can delete the newest snapshots, or set the whole repository
//! back, and nothing inside it would show that. This does, to a client that has seen them.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{OpenOptions, Repository, SnapshotList};
use crate::id::{RepositoryId, SnapshotId};
use crate::storage::{make_private_folder, replace_file};

/// The newest snapshot that this client saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its VM.
    pub vm: String,
    /// Its time.
    #[serde(with = "crate::format::timestamp")]
    pub time: Timestamp,
}

/// Name of the file beside it that tells when this client read which pack.
const READINGS: &str = "verified";

impl Repository {
    /// Returns the file in which this client remembers when it read which pack.
    pub(crate) fn readings_file(&self) -> PathBuf {
        self.memory_file().with_file_name(READINGS)
    }

    /// Compares a listing with what this client remembers, remembers the newest snapshot of it,
    /// and returns the one remembered before if it is gone without having been forgotten.
    ///
    /// A memory that cannot be read or written is none: it protects, and must not be in the way.
    pub fn remember(&self, list: &SnapshotList) -> Option<SeenSnapshot> {
        let path = self.memory_file();
        let before: Option<SeenSnapshot> = std::fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut live = list
            .snapshots
            .iter()
            .filter(|snapshot| snapshot.state.forgotten.is_none());
        let newest = live.next_back().map(|snapshot| SeenSnapshot {
            id: snapshot.id,
            vm: snapshot.manifest.vm.clone(),
            time: snapshot.manifest.time,
        });
        let is_gone = |seen: &SeenSnapshot| {
            let unreadable = list.unreadable.iter().map(|snapshot| snapshot.id);
            let mut listed = list
                .snapshots
                .iter()
                .map(|snapshot| snapshot.id)
                .chain(unreadable);
            listed.all(|id| id != seen.id)
        };
        let gone = before.as_ref().filter(|seen| is_gone(seen));
        // Said until there is a newer snapshot: once is easily missed.
        let is_newer = |newest: &SeenSnapshot| gone.is_none_or(|seen| newest.time > seen.time);
        if newest != before && newest.as_ref().map_or(gone.is_none(), is_newer) {
            write(path, newest.as_ref());
        }
        gone.cloned()
    }
}

impl OpenOptions {
    /// Returns what [`Repository::readings_file`] does, for a repository that is not opened.
    pub(crate) fn readings_file(&self, repository: RepositoryId) -> PathBuf {
        self.cache.join(repository.to_hex()).join(READINGS)
    }
}

fn write(path: &Path, newest: Option<&SeenSnapshot>) {
    let Some(newest) = newest else {
        drop(std::fs::remove_file(path));
        return;
    };
    if let Some(folder) = path.parent()
        && make_private_folder(folder).is_ok()
        && let Ok(bytes) = serde_json::to_vec(newest)
    {
        drop(replace_file(path, &bytes));
    }
}
