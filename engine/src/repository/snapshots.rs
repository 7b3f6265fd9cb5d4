//! Manifests: published, listed, read.

use std::sync::Arc;

use super::memory::SeenSnapshot;
use super::newest::{Candidates, Loss, LostSnapshot, SnapshotSummary};
use super::notes::SnapshotState;
use super::{Repository, RepositoryError};
use crate::format::FileKind;
use crate::format::manifest::{DiskRecord, Manifest, ORDINAL_MAX};
use crate::id::{SessionId, SnapshotId};
use crate::limits::MANIFEST_LEN_MAX;
use crate::storage::{Area, Existing, Name, StorageError};

/// A published snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its document.
    pub manifest: Arc<Manifest>,
    /// What its notes say of it.
    pub state: SnapshotState,
}

impl Snapshot {
    /// Returns what references to snapshots are resolved by.
    pub fn summary(&self) -> SnapshotSummary {
        let manifest = &*self.manifest;
        SnapshotSummary {
            id: self.id,
            vm: manifest.vm.clone(),
            time: manifest.time,
            ordinal: manifest.ordinal,
            parent: manifest.parent,
            domain: (manifest.domain.as_ref()).map(|domain| domain.uuid.clone()),
        }
    }

    /// Returns the record of a disk.
    pub fn disk(&self, target: &str) -> Option<&DiskRecord> {
        self.manifest
            .disks
            .iter()
            .find(|disk| disk.target == target)
    }
}

/// A manifest that could not be read.
#[derive(Debug)]
pub struct UnreadableSnapshot {
    /// Its name.
    pub id: SnapshotId,
    /// Why not.
    pub error: Arc<RepositoryError>,
    /// What its notes say of it.
    pub state: SnapshotState,
}

/// All snapshots, by time.
#[derive(Debug, Default)]
pub struct SnapshotList {
    /// Those that can be read, forgotten ones included, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Those that cannot.
    pub unreadable: Vec<UnreadableSnapshot>,
}

impl SnapshotList {
    /// Returns what references to snapshots that are not forgotten are resolved among, with what
    /// this client [remembers](Repository::remember) and does not find.
    pub fn candidates(&self, seen: &[SeenSnapshot]) -> Candidates {
        let summaries = self.snapshots.iter();
        let (others, snapshots): (Vec<_>, Vec<_>) =
            summaries.partition(|snapshot| snapshot.state.forgotten.is_some());
        let summaries = |of: Vec<&Snapshot>| of.into_iter().map(Snapshot::summary).collect();
        let known = |id: SnapshotId| {
            let seen = seen.iter().find(|seen| seen.id == id);
            seen.map(|seen| seen.known.clone())
        };
        let unreadable = self
            .unreadable
            .iter()
            .filter(|lost| lost.state.forgotten.is_none());
        let unreadable = unreadable.map(|lost| LostSnapshot {
            id: lost.id,
            loss: match lost.error.is_unsupported() {
                true => Loss::Unsupported,
                false => Loss::Unreadable,
            },
            known: known(lost.id),
        });
        let gone = seen.iter().filter(|seen| !self.has(seen.id));
        let gone = gone.map(|seen| LostSnapshot {
            id: seen.id,
            loss: Loss::Gone,
            known: Some(seen.known.clone()),
        });
        Candidates {
            snapshots: summaries(snapshots),
            others: summaries(others),
            lost: unreadable.chain(gone).collect(),
        }
    }

    /// Returns whether a snapshot is there, readable or not.
    pub(super) fn has(&self, id: SnapshotId) -> bool {
        let unreadable = self.unreadable.iter().map(|snapshot| snapshot.id);
        let mut all = self
            .snapshots
            .iter()
            .map(|snapshot| snapshot.id)
            .chain(unreadable);
        all.any(|listed| listed == id)
    }
}

impl Repository {
    /// Returns the place of the next snapshot of a VM: after all that can be read and that this
    /// client remembers. Each one that cannot be read might be the last of them.
    pub(crate) fn next_ordinal(&self, vm: &str) -> Result<u64, RepositoryError> {
        let mut last = self.remembered_ordinal(vm);
        let mut unreadable = 0;
        for listed in self.storage().list(Area::Snapshots)? {
            let Name::Snapshot(id) = listed.name else {
                continue;
            };
            match self.manifest(id) {
                Ok(manifest) if manifest.vm == vm => last = last.max(manifest.ordinal),
                Ok(_) | Err(RepositoryError::Storage(StorageError::NotFound(_))) => {}
                Err(_) => unreadable += 1,
            }
        }
        Ok(last.saturating_add(1 + unreadable).min(ORDINAL_MAX))
    }

    /// Publishes a snapshot. Everything that it refers to must be durable.
    ///
    /// # Durability
    ///
    /// Durable on return: this is the commit point.
    pub(crate) fn publish(
        &self,
        session: SessionId,
        manifest: &Manifest,
    ) -> Result<SnapshotId, RepositoryError> {
        let placeholder = Name::Snapshot(SnapshotId::from_bytes([0; SnapshotId::LEN]));
        let document = |source| RepositoryError::Document {
            object: placeholder,
            source,
        };
        let plain = manifest.encode().map_err(document)?;
        let stored = self.keys().seal_document(FileKind::Manifest, plain);
        let id = SnapshotId::from_bytes(*blake3::hash(&stored).as_bytes());
        match self
            .storage()
            .put(session, &Name::Snapshot(id), &stored, Existing::Refuse)
        {
            // The name is the hash of the bytes: what is there is this very manifest.
            Ok(()) | Err(StorageError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.remember_published(id, manifest);
        Ok(id)
    }

    /// Reads one manifest, checked against its name.
    pub fn manifest(&self, id: SnapshotId) -> Result<Manifest, RepositoryError> {
        let object = Name::Snapshot(id);
        let stored = self.storage().read(&object, MANIFEST_LEN_MAX)?;
        if blake3::hash(&stored) != *id.as_bytes() {
            return Err(RepositoryError::NameMismatch { object });
        }
        self.keys()
            .open_document(FileKind::Manifest, stored)
            .and_then(|plain| Manifest::decode(&plain))
            .map_err(|source| RepositoryError::Document { object, source })
    }

    /// Reads all manifests and notes. One that cannot be read hides none of the others.
    ///
    /// Notes come first: a snapshot that is listed has all notes that it had then. The other way
    /// round a collection could take what says that it is forgotten.
    pub fn snapshots(&self) -> Result<SnapshotList, RepositoryError> {
        let states = self.states()?;
        let mut list = SnapshotList::default();
        for listed in self.storage().list(Area::Snapshots)? {
            let Name::Snapshot(id) = listed.name else {
                continue;
            };
            match self.manifest(id) {
                Ok(manifest) => list.snapshots.push(Snapshot {
                    id,
                    manifest: Arc::new(manifest),
                    state: states.get(&id).cloned().unwrap_or_default(),
                }),
                // A collection may have taken it between the listing and the reading.
                Err(RepositoryError::Storage(StorageError::NotFound(_))) => {}
                Err(error) => list.unreadable.push(UnreadableSnapshot {
                    id,
                    error: Arc::new(error),
                    state: states.get(&id).cloned().unwrap_or_default(),
                }),
            }
        }
        list.snapshots
            .sort_by_key(|snapshot| (snapshot.manifest.time, snapshot.id));
        Ok(list)
    }

    /// Fails unless a snapshot is there and not forgotten. Asked by a writer once its session is
    /// open: a collection that takes what the snapshot needs has then seen the session, or we see
    /// that the snapshot is forgotten.
    ///
    /// Notes come first: a collection deletes the manifest, durably, and then the notes. Where the
    /// note is gone already that says that it is forgotten, so is the manifest.
    pub(crate) fn check_live(&self, id: SnapshotId) -> Result<(), RepositoryError> {
        match self.states()?.get(&id) {
            Some(state) if state.forgotten.is_some() => Err(RepositoryError::SnapshotGone(id)),
            _ => self.check_present(&[id]),
        }
    }

    /// Fails if one of the snapshots is not there any more.
    pub(super) fn check_present(&self, ids: &[SnapshotId]) -> Result<(), RepositoryError> {
        for &id in ids {
            match self.storage().len(&Name::Snapshot(id)) {
                Ok(_) => {}
                Err(StorageError::NotFound(_)) => return Err(RepositoryError::SnapshotGone(id)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
