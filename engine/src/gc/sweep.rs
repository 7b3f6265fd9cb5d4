//! The second look, and the deletions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::format::plan::Plan;
use crate::id::{PackId, SnapshotId};
use crate::repository::{Access, Contents, Repository, Snapshot};
use crate::storage::{Area, CollectionLock, Name};

use super::census::Census;
use super::mark::mark;
use super::plan::{Covered, sorters};
use super::roots::look;
use super::{GcError, GcEvent, GcOptions, GcReport, parity};

/// What a sweep needs.
pub(super) struct Sweep<'s, 'o> {
    pub(super) repository: &'s Arc<Repository>,
    pub(super) options: &'s GcOptions<'o>,
    pub(super) lock: &'s CollectionLock,
}

impl Sweep<'_, '_> {
    /// Looks again at what is needed, and deletes what is not.
    pub(super) fn run(
        &self,
        plan: Plan,
        covered: Option<Covered>,
        report: &mut GcReport,
    ) -> Result<(), GcError> {
        let may_take = |id: SnapshotId| plan.taken.binary_search(&id).is_ok();
        let roots = look(self.repository, self.options, may_take)?;
        let covered = covered.unwrap_or_default();
        let new = roots.kept.iter().filter(|it| !covered.contains(&it.id));
        let new: Vec<&Snapshot> = new.collect();
        let mut condemned: BTreeSet<PackId> = plan.condemned.iter().copied().collect();
        if !new.is_empty() && !condemned.is_empty() {
            let before = condemned.len();
            self.rescue(&new, &mut condemned, report)?;
            report.rescued += (before - condemned.len()) as u64;
        }
        // Those that an interrupted sweep has deleted are not listed any more; their notes may be.
        let kept: BTreeSet<SnapshotId> = roots.kept.iter().map(|snapshot| snapshot.id).collect();
        let taken: Vec<SnapshotId> = (plan.taken.iter())
            .filter(|id| !kept.contains(id))
            .copied()
            .collect();
        self.delete_snapshots(&taken)?;
        self.delete_packs(&condemned, report)?;
        parity::delete(self.repository, report)?;
        report.taken.extend(taken);
        self.repository.delete_plan(self.lock)?;
        if report.deleted_packs > 0 {
            // The index is a cache: where this fails, it is only larger than it has to be.
            let contents = Contents::open(self.repository, Access::Upkeep, "gc");
            drop(contents.and_then(|contents| contents.compact_index()));
        }
        Ok(())
    }

    /// Takes out of the condemned the packs that `new` snapshots need: those that hold something
    /// that no staying pack holds.
    fn rescue(
        &self,
        new: &[&Snapshot],
        condemned: &mut BTreeSet<PackId>,
        report: &mut GcReport,
    ) -> Result<(), GcError> {
        let contents = Contents::open(self.repository, Access::Upkeep, "gc")?;
        let sorters = sorters(&contents, self.options)?;
        let mut marked = mark(&contents, new.iter().copied(), self.options, &sorters)?;
        let mut census = Census::take(self.repository, self.options, &sorters)?;
        // What is in a pack that cannot be read, nobody knows.
        for pack in census.unreadable() {
            condemned.remove(&pack);
        }
        let ids = census.ids.clone();
        let mut missing = 0;
        census.join(&mut marked.live, |_, spots| {
            let mut packs = spots.iter().map(|spot| ids[spot.pack as usize]);
            match spots.first() {
                None => missing += 1,
                Some(first) => {
                    if packs.all(|pack| condemned.contains(&pack)) {
                        condemned.remove(&ids[first.pack as usize]);
                    }
                }
            }
        })?;
        report.missing_chunks = report.missing_chunks.max(missing);
        if missing > 0 && !self.options.despite_missing {
            return Err(GcError::Missing(missing));
        }
        Ok(())
    }

    /// Deletes manifests, durably, and then their notes.
    fn delete_snapshots(&self, taken: &[SnapshotId]) -> Result<(), GcError> {
        let Some(first) = taken.first() else {
            return Ok(());
        };
        let storage = self.repository.storage();
        for snapshot in taken {
            storage.delete(&Name::Snapshot(*snapshot))?;
        }
        // Before any pack goes: a power cut must not bring back a snapshot without its packs.
        storage.settle(&Name::Snapshot(*first))?;
        for listed in storage.list(Area::Notes)? {
            if let Name::Note(snapshot, _) = listed.name
                && taken.contains(&snapshot)
            {
                storage.delete(&listed.name)?;
            }
        }
        Ok(())
    }

    /// Deletes packs, and makes that durable before the plan goes that names them.
    fn delete_packs(
        &self,
        condemned: &BTreeSet<PackId>,
        report: &mut GcReport,
    ) -> Result<(), GcError> {
        let storage = self.repository.storage();
        let listed = storage.list(Area::Packs)?;
        let packs: Vec<_> = listed
            .iter()
            .filter(|listed| matches!(listed.name, Name::Pack(id) if condemned.contains(&id)))
            .collect();
        (self.options.observe)(GcEvent::Deleting {
            packs: packs.len() as u64,
        });
        // One name for each folder: a pack's first byte names it.
        let mut folders: BTreeMap<u8, Name> = BTreeMap::new();
        for pack in condemned {
            folders
                .entry(pack.as_bytes()[0])
                .or_insert(Name::Pack(*pack));
        }
        for pack in packs {
            storage.delete(&pack.name)?;
            report.deleted_packs += 1;
            report.deleted_bytes += pack.len;
        }
        for name in folders.values() {
            storage.settle(name)?;
        }
        Ok(())
    }
}
