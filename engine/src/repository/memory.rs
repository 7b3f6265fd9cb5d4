//! What this client remembers of a repository: the snapshots that it saw there, and where it
//! remembers what it verified.
//!
//! Whoever can write to the storage can delete the newest snapshots, or set the whole repository
//! back, and nothing inside it would show that. This does, to a client that has seen them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{OpenOptions, Repository, SnapshotList};
use crate::format::manifest::Manifest;
use crate::id::{RepositoryId, SnapshotId};
use crate::limits::MIB;
use crate::storage::{Storage, make_private_folder, replace_file};

/// A snapshot that this client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// What it was.
    pub known: Known,
}

/// What this client knows of a snapshot that it saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its VM.
    pub vm: String,
    /// Its time.
    #[serde(with = "crate::format::timestamp")]
    pub time: Timestamp,
    /// Its place among the snapshots of the VM.
    pub ordinal: u64,
}

/// All that is kept of it.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    /// The snapshots that are not forgotten.
    snapshots: BTreeMap<SnapshotId, Known>,
    /// The highest place that any snapshot of a VM ever had, forgotten and deleted ones too.
    last: BTreeMap<String, u64>,
}

/// Name of the file beside it that tells when this client read which pack.
const READINGS: &str = "verified";
/// Longest memory that is read: as long as some 400 000 snapshots make it.
const MEMORY_LEN_MAX: u64 = 64 * MIB;

impl Known {
    fn of(manifest: &Manifest) -> Self {
        Self {
            vm: manifest.vm.clone(),
            time: manifest.time,
            ordinal: manifest.ordinal,
        }
    }

    fn is_older(&self, other: &Self) -> bool {
        (self.ordinal, self.time) < (other.ordinal, other.time)
    }
}

impl Memory {
    /// One that cannot be read is none: it protects, and must not be in the way.
    fn read(path: &Path) -> Self {
        let is_short = std::fs::metadata(path).is_ok_and(|file| file.len() <= MEMORY_LEN_MAX);
        let bytes = is_short.then(|| std::fs::read(path).ok()).flatten();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn count(&mut self, known: &Known) {
        let last = self.last.entry(known.vm.clone()).or_default();
        *last = known.ordinal.max(*last);
    }

    /// Returns the newest of each VM.
    fn newest(&self) -> BTreeMap<&str, (SnapshotId, &Known)> {
        let mut newest: BTreeMap<&str, (SnapshotId, &Known)> = BTreeMap::new();
        for (id, known) in &self.snapshots {
            let before = newest.entry(&known.vm).or_insert((*id, known));
            if before.1.is_older(known) {
                *before = (*id, known);
            }
        }
        newest
    }

    fn write(&self, path: &Path) {
        if let Some(folder) = path.parent()
            && make_private_folder(folder).is_ok()
            && let Ok(bytes) = serde_json::to_vec(self)
        {
            drop(replace_file(path, &bytes));
        }
    }
}

impl Repository {
    /// Returns the file in which this client remembers when it read which pack.
    pub(crate) fn readings_file(&self) -> PathBuf {
        self.memory_file().with_file_name(READINGS)
    }

    /// Compares a listing with what this client remembers, remembers it, and returns those
    /// remembered before that cannot be read, and the newest of each VM that are gone without
    /// having been forgotten. These stay remembered until the VM has a newer one.
    ///
    /// A memory that cannot be written is none, too.
    pub fn remember(&self, list: &SnapshotList) -> Vec<SeenSnapshot> {
        let path = self.memory_file();
        let before = Memory::read(path);
        let mut now = Memory {
            last: before.last.clone(),
            ..Memory::default()
        };
        for snapshot in &list.snapshots {
            let known = Known::of(&snapshot.manifest);
            now.count(&known);
            if snapshot.state.forgotten.is_none() {
                now.snapshots.insert(snapshot.id, known);
            }
        }
        let mut lost = Vec::new();
        for unreadable in &list.unreadable {
            if let Some(known) = before.snapshots.get(&unreadable.id)
                && unreadable.state.forgotten.is_none()
            {
                let (id, known) = (unreadable.id, known.clone());
                lost.push(SeenSnapshot { id, known });
            }
        }
        let newest = now.newest();
        for (vm, (id, known)) in before.newest() {
            let is_newest = newest.get(vm).is_none_or(|(_, now)| now.is_older(known));
            if is_newest && !list.has(id) {
                let known = known.clone();
                lost.push(SeenSnapshot { id, known });
            }
        }
        let kept = lost.iter().map(|seen| (seen.id, seen.known.clone()));
        now.snapshots.extend(kept.collect::<Vec<_>>());
        if now != before {
            now.write(path);
        }
        lost
    }

    /// Remembers a snapshot that this client has just published.
    pub(super) fn remember_published(&self, id: SnapshotId, manifest: &Manifest) {
        let path = self.memory_file();
        let mut memory = Memory::read(path);
        let known = Known::of(manifest);
        memory.count(&known);
        memory.snapshots.insert(id, known);
        memory.write(path);
    }

    /// Misses snapshots no more that were forgotten, whatever becomes of them.
    pub(super) fn unremember(&self, snapshots: &[SnapshotId]) {
        let path = self.memory_file();
        let mut memory = Memory::read(path);
        let before = memory.snapshots.len();
        memory.snapshots.retain(|id, _| !snapshots.contains(id));
        if memory.snapshots.len() != before {
            memory.write(path);
        }
    }

    /// Returns the highest place of a snapshot of a VM that this client remembers; 0 for none.
    pub fn remembered_ordinal(&self, vm: &str) -> u64 {
        let memory = Memory::read(self.memory_file());
        memory.last.get(vm).copied().unwrap_or(0)
    }
}

impl OpenOptions {
    /// Returns what [`Repository::readings_file`] does, for a repository that is not opened.
    pub(crate) fn readings_file(&self, storage: &dyn Storage, id: RepositoryId) -> PathBuf {
        self.folder_of(storage, id).join(READINGS)
    }
}
