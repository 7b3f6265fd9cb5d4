//! What must be readable: everything that was acknowledged and that nobody asked to forget.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_engine::id::SnapshotId;
use cairn_engine::repository::Repository;

use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::chain;

/// What the history has done so far, as whoever did it knows.
#[derive(Default)]
pub struct Model {
    known: Mutex<Known>,
}

#[derive(Default)]
pub struct Known {
    /// Snapshots whose backup came to its end, with the disk that they must give back.
    pub made: BTreeMap<SnapshotId, Arc<Vec<u8>>>,
    /// Every disk that anybody tried to back up.
    pub tried: BTreeSet<[u8; 32]>,
    /// Snapshots that somebody began to forget.
    pub forgotten: BTreeMap<SnapshotId, Forgets>,
    pub violations: Vec<String>,
}

/// What became of the attempts to forget a snapshot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Forgets {
    begun: u32,
    /// How many came to an end. What was killed may yet be found to have happened.
    ended: u32,
    /// How many of them were undone.
    undone: u32,
}

impl Known {
    pub fn begin_forget(&mut self, id: SnapshotId) {
        self.forgotten.entry(id).or_default().begun += 1;
    }

    pub fn end_forget(&mut self, id: SnapshotId) {
        self.forgotten.entry(id).or_default().ended += 1;
    }

    /// Notes that a snapshot was brought back, where nobody has begun to forget it since it was
    /// `before`.
    pub fn undeleted(&mut self, id: SnapshotId, before: Forgets) {
        let forgets = self.forgotten.entry(id).or_default();
        if *forgets == before && forgets.begun == forgets.ended {
            forgets.undone = forgets.begun;
        }
    }

    fn must_be_there(&self, id: &SnapshotId) -> bool {
        let forgets = self.forgotten.get(id);
        forgets.is_none_or(|forgets| forgets.begun == forgets.undone)
    }
}

impl Model {
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn violation(&self, text: String) {
        self.known().violations.push(text);
    }

    /// Checks a disk that came back.
    pub fn check_bytes(&self, id: SnapshotId, bytes: &[u8], context: &str) {
        let known = self.known();
        let is_right = match known.made.get(&id) {
            Some(made) => made.as_slice() == bytes,
            None => known.tried.contains(&digest(bytes)),
        };
        drop(known);
        if !is_right {
            self.violation(format!("{context}: {id} has other bytes"));
        }
    }

    /// Checks everything, while nobody is at work.
    pub fn check(&self, repository: &Arc<Repository>, context: &str) {
        let list = match repository.snapshots() {
            Ok(list) => list,
            Err(error) => return self.violation(format!("{context}: {}", chain(&error))),
        };
        for unreadable in &list.unreadable {
            let error = chain(&unreadable.error);
            self.violation(format!("{context}: {}: {error}", unreadable.id));
        }
        let listed: BTreeSet<SnapshotId> = list.snapshots.iter().map(|it| it.id).collect();
        let wanted: Vec<SnapshotId> = {
            let known = self.known();
            let made = known.made.keys();
            made.filter(|id| known.must_be_there(id)).copied().collect()
        };
        for id in wanted.iter().filter(|id| !listed.contains(id)) {
            self.violation(format!("{context}: snapshot {id} is lost"));
        }
        let plan = repository.collection_plan().ok().flatten();
        for snapshot in &list.snapshots {
            let is_going = plan
                .as_ref()
                .is_some_and(|plan| plan.taken.contains(&snapshot.id));
            match restore_fresh(repository, snapshot) {
                Ok(bytes) => self.check_bytes(snapshot.id, &bytes, context),
                // A power cut may bring the manifest back, and the plan with it: nobody reads it.
                Err(_) if is_going => {}
                Err(error) => {
                    let error = chain(&error);
                    self.violation(format!("{context}: {} is lost: {error}", snapshot.id));
                }
            }
        }
        match verify_fresh(repository) {
            Ok(report) => {
                for fault in &report.faults {
                    self.violation(format!("{context}: {fault:?}"));
                }
            }
            Err(error) => self.violation(format!("{context}: verify: {}", chain(&error))),
        }
    }
}

/// Returns what tells disks apart.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}
