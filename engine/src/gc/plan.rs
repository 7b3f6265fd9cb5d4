//! Planning: what lives, which packs go, and what has to be moved out of them first.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::format::Unknown;
use crate::format::plan::{PLAN_VERSION, Plan};
use crate::id::{PackId, SnapshotId};
use crate::repository::{Access, Contents, Repository};
use crate::storage::Session;

use super::census::{Census, Pack};
use super::choose::{Weighed, choose};
use super::mark::{Marked, Sorters, mark};
use super::repack::{Moved, repack};
use super::roots::{Roots, look};
use super::{GcError, GcEvent, GcOptions, GcReport, duplicates, parity, rest, wait};

/// The snapshots that a plan's own collection has walked.
pub type Covered = BTreeSet<SnapshotId>;

/// A plan, written, and what its collection knows beyond it.
pub struct Planned {
    /// As it stands in the repository.
    pub plan: Plan,
    /// The snapshots that were walked.
    pub covered: Covered,
}

/// What planning has found out.
pub(super) struct Planning<'p, 'o> {
    repository: &'p Arc<Repository>,
    options: &'p GcOptions<'o>,
    report: &'p mut GcReport,
    contents: Contents,
    roots: Roots,
    census: Census,
    marked: Marked,
    goes: Vec<bool>,
}

impl<'p, 'o> Planning<'p, 'o> {
    /// Lists packs, then snapshots and who reads them; marks what lives; chooses what goes.
    pub(super) fn begin(
        repository: &'p Arc<Repository>,
        options: &'p GcOptions<'o>,
        report: &'p mut GcReport,
    ) -> Result<Self, GcError> {
        let contents = Contents::open(repository, Access::Upkeep, "gc")?;
        let sorters = sorters(&contents, options)?;
        // Packs first: what is published from here on is not in the list, and does not go.
        let mut census = Census::take(repository, options, &sorters)?;
        let candidates = census.ids.len();
        let roots = look(repository, options, |_| true)?;
        let mut marked = mark(&contents, roots.kept.iter(), options, &sorters)?;
        report.snapshots = roots.kept.len() as u64;
        report.nodes = marked.nodes;
        // Snapshots published meanwhile brought packs of their own.
        census.extend(repository, options)?;
        report.missing_chunks = census.mark(&mut marked.live)?;
        if report.missing_chunks > 0 && !options.despite_missing {
            return Err(GcError::Missing(report.missing_chunks));
        }
        let weighed = weigh(&contents, &census)?;
        let (old, new) = weighed.split_at(candidates);
        let mut goes = choose(old, options.max_unused, repository.config().pack_len);
        goes.extend(new.iter().map(|_| false));
        report.packs = census.ids.len() as u64;
        report.stored_bytes = weighed.iter().flatten().map(|pack| pack.stored_len).sum();
        report.dead_bytes = weighed.iter().flatten().map(|pack| pack.dead).sum();
        report.condemned = goes.iter().filter(|goes| **goes).count() as u64;
        report.damaged = census.unreadable().collect();
        let moving = weighed.iter().zip(&goes).filter(|(_, goes)| **goes);
        let moving = moving.filter_map(|(pack, _)| pack.filter(|pack| !pack.is_dead));
        let moving = moving.map(|pack| pack.stored_len - pack.dead);
        let moving = moving.map(|len| len + parity::estimate(repository, len));
        let moving: Vec<u64> = moving.collect();
        report.repacked = moving.len() as u64;
        report.written_bytes = moving.iter().sum();
        Ok(Self {
            repository,
            options,
            report,
            contents,
            roots,
            census,
            marked,
            goes,
        })
    }

    /// Fills the report with what would be done.
    pub(super) fn survey(self) -> Result<(), GcError> {
        self.report.deleted_packs = self.report.condemned;
        self.report.taken.clone_from(&self.roots.taken);
        self.report.deleted_bytes = self.going().map(|pack| pack.stored_len).sum();
        let going = self.going().map(|pack| pack.id).collect();
        parity::survey(self.repository, &going, self.report)
    }

    /// Moves what lives out of the packs that go, and writes the plan. `None` where nothing goes.
    pub(super) fn carry_out(mut self) -> Result<Option<Planned>, GcError> {
        self.report.behind = rest::note(self.repository, &self.roots, self.options)?;
        if self.report.condemned == 0 && self.roots.taken.is_empty() {
            self.report.written_bytes = 0;
            return Ok(None);
        }
        let session = self.repository.open_writer("gc")?;
        self.move_out(&*session)?;
        let condemned: Vec<PackId> = (self.census.ids.iter().zip(&self.goes))
            .filter_map(|(id, goes)| goes.then_some(*id))
            .collect();
        self.report.condemned = condemned.len() as u64;
        if condemned.is_empty() && self.roots.taken.is_empty() {
            return Ok(None);
        }
        let covered: Covered = self.roots.kept.iter().map(|snapshot| snapshot.id).collect();
        let mut plan = Plan {
            version: PLAN_VERSION,
            id: session.id(),
            created: self.options.now,
            condemned,
            covered: covered.iter().copied().collect(),
            taken: std::mem::take(&mut self.roots.taken),
            waiting_for: None,
            unknown: Unknown::new(),
        };
        self.repository.put_plan(session.id(), &plan)?;
        // Only now: a writer that is not seen here will see the plan.
        plan.waiting_for = Some(wait::writers(self.repository, &[session.id()])?);
        self.repository.put_plan(session.id(), &plan)?;
        Ok(Some(Planned { plan, covered }))
    }

    /// Returns the packs that go.
    fn going(&self) -> impl Iterator<Item = &Pack> {
        let packs = self.census.packs.iter().zip(&self.goes);
        packs.filter_map(|(pack, goes)| pack.as_ref().filter(|_| *goes))
    }

    /// Copies what lives in the packs that go. A pack that cannot give back something that lives
    /// stays; on a full medium all do that hold anything.
    fn move_out(&mut self, session: &dyn Session) -> Result<(), GcError> {
        let estimate = std::mem::take(&mut self.report.written_bytes);
        // Also where all that goes is dead: it may be so only because another pack has the same.
        duplicates::check(
            &self.contents,
            &mut self.census,
            &mut self.marked.live,
            &self.goes,
            self.options,
        )?;
        let moving = self.going().filter(|pack| !pack.is_dead()).count() as u64;
        if moving == 0 {
            return Ok(());
        }
        (self.options.observe)(GcEvent::Repacking {
            packs: moving,
            bytes: estimate,
        });
        match repack(
            &self.contents,
            session,
            &self.census,
            &self.goes,
            self.options,
        ) {
            Ok(Moved {
                packs,
                stored_bytes,
                damaged,
            }) => {
                self.report.written_packs += packs;
                self.report.written_bytes = stored_bytes;
                for pack in damaged {
                    self.goes[pack as usize] = false;
                    self.report.damaged.push(self.census.pack(pack).id);
                }
            }
            Err(error) if error.is_no_space() => {
                self.report.was_full = true;
                for (pack, goes) in self.census.packs.iter().zip(&mut self.goes) {
                    *goes &= pack.as_ref().is_some_and(Pack::is_dead);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Returns the sorters of a collection.
pub(super) fn sorters(contents: &Contents, options: &GcOptions<'_>) -> Result<Sorters, GcError> {
    let folder = match &options.temp {
        Some(folder) => folder.clone(),
        None => contents.temp_folder(),
    };
    Ok(Sorters {
        memory: options.memory,
        folder,
    })
}

fn weigh(contents: &Contents, census: &Census) -> Result<Vec<Option<Weighed>>, GcError> {
    let weigh = |pack: &Option<Pack>| {
        let Some(pack) = pack else {
            return Ok(None);
        };
        Ok(Some(Weighed {
            kind: pack.kind,
            stored_len: pack.stored_len,
            dead: pack.dead_bytes(contents)?,
            is_dead: pack.is_dead(),
        }))
    };
    census.packs.iter().map(weigh).collect()
}
