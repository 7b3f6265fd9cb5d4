//! The plan of a collection, as everyone meets it: who writes takes what it condemns as absent, and
//! nobody begins to read what it takes. `docs/concurrency.md` argues why that is enough.

use std::collections::BTreeSet;

use super::{Repository, RepositoryError};
use crate::format::FileKind;
use crate::format::plan::Plan;
use crate::id::{PackId, SessionId, SnapshotId};
use crate::limits::MANIFEST_LEN_MAX;
use crate::storage::{Area, CollectionLock, Existing, Listed, Name, StorageError};

/// A sealed plan is somewhat longer than what it seals.
const PLAN_LEN_MAX: u64 = MANIFEST_LEN_MAX + 4096;

impl Repository {
    /// Takes the lock of the one collection.
    ///
    /// # Errors
    ///
    /// [`StorageError::Locked`] while another holds it.
    pub fn lock_collection(&self) -> Result<CollectionLock, RepositoryError> {
        Ok(self.storage().lock_collection()?)
    }

    /// Returns the plan of the collection under way, if there is one.
    pub fn collection_plan(&self) -> Result<Option<Plan>, RepositoryError> {
        let object = Name::GcPlan;
        let stored = match self.storage().read(&object, PLAN_LEN_MAX) {
            Ok(stored) => stored,
            Err(StorageError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.keys()
            .open_document(FileKind::GcPlan, stored)
            .and_then(|plain| Plan::decode(&plain))
            .map(Some)
            .map_err(|source| RepositoryError::Document { object, source })
    }

    /// Writes the plan, in place of the one before. Only under the lock.
    ///
    /// # Durability
    ///
    /// Durable on return.
    pub(crate) fn put_plan(&self, session: SessionId, plan: &Plan) -> Result<(), RepositoryError> {
        let object = Name::GcPlan;
        let document = |source| RepositoryError::Document { object, source };
        let plain = plan.encode().map_err(document)?;
        let stored = self.keys().seal_document(FileKind::GcPlan, plain);
        Ok(self
            .storage()
            .put(session, &object, &stored, Existing::Replace)?)
    }

    /// Deletes the plan. What it condemned and is still there is as good as ever. Only under the
    /// lock.
    ///
    /// # Durability
    ///
    /// Durable on return.
    pub fn delete_plan(&self, _lock: &CollectionLock) -> Result<(), RepositoryError> {
        self.storage().delete(&Name::GcPlan)?;
        Ok(self.storage().settle(&Name::GcPlan)?)
    }

    /// Returns the parity of packs that are not there, or that `goes` names.
    ///
    /// Parity is listed first. It is never there before its pack, so a pack that is not listed
    /// after it has been deleted, and nobody makes one of that name again.
    pub(crate) fn parity_left(&self, goes: &BTreeSet<PackId>) -> Result<Vec<Listed>, StorageError> {
        if self.config().parity_percent.is_none() {
            return Ok(Vec::new());
        }
        let mut parity = self.storage().list(Area::Parity)?;
        let packs = self.storage().list(Area::Packs)?.into_iter();
        let packs: BTreeSet<Name> = packs.map(|listed| listed.name).collect();
        parity.retain(|listed| match listed.name {
            Name::Parity(id) => goes.contains(&id) || !packs.contains(&Name::Pack(id)),
            _ => false,
        });
        Ok(parity)
    }

    /// Deletes the plan of a collection that was interrupted, if there is one: what it condemned
    /// may be needed now, and the next collection plans anew. Only under the lock.
    ///
    /// # Errors
    ///
    /// A plan of a newer version, of which nobody here knows what its end means.
    ///
    /// # Durability
    ///
    /// Durable on return.
    pub(crate) fn cancel_plan(&self, lock: &CollectionLock) -> Result<(), RepositoryError> {
        match self.collection_plan() {
            Ok(None) => Ok(()),
            Err(error) if !error.is_damage() => Err(error),
            Ok(Some(_)) | Err(_) => self.delete_plan(lock),
        }
    }

    /// Returns the plan that newcomers keep to. One that is damaged and that no collection holds is
    /// deleted: a flipped bit in a list of what was to go must not end all backups.
    fn plan_in_force(&self) -> Result<Option<Plan>, RepositoryError> {
        let damage = match self.collection_plan() {
            Err(error) if error.is_damage() => error,
            read => return read,
        };
        let Ok(lock) = self.lock_collection() else {
            return Err(damage);
        };
        match self.collection_plan() {
            Err(error) if error.is_damage() => self.delete_plan(&lock).map(|()| None),
            read => read,
        }
    }

    /// Returns the packs on which nobody may build.
    pub(super) fn condemned(&self) -> Result<Vec<PackId>, RepositoryError> {
        let plan = self.plan_in_force()?;
        Ok(plan.map(|plan| plan.condemned).unwrap_or_default())
    }

    /// Fails if one of the snapshots is about to be deleted. Asked by a reader once its session is
    /// open: a collection that sees no session in time has then been seen by it.
    pub(super) fn check_not_taken(&self, ids: &[SnapshotId]) -> Result<(), RepositoryError> {
        if ids.is_empty() {
            return Ok(());
        }
        let Some(plan) = self.plan_in_force()? else {
            return Ok(());
        };
        match ids.iter().find(|id| plan.taken.binary_search(id).is_ok()) {
            Some(id) => Err(RepositoryError::SnapshotGone(*id)),
            None => Ok(()),
        }
    }
}
