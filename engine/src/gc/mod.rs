//! Collection: deletes the packs that no snapshot needs, and moves what is needed out of packs that
//! are mostly dead. Beside running backups, restores and exports, none of which it blocks.
//!
//! In four steps, of which `docs/concurrency.md` argues that no order of them, of crashes and of
//! what others do meanwhile loses a byte:
//!
//! ```text
//! plan    which packs hold nothing that any snapshot needs, or too little; copy what they hold
//!         into new packs; write down, durably, which packs and snapshots are to go
//! wait    for the writers that were at work then, and may have built on those packs
//! look    walk what has been published since: a pack that it needs stays
//! delete  manifests first, then packs, then the plan
//! ```
//!
//! What lives is known from recipes and from the footers of packs, never from the index.

mod census;
mod choose;
mod duplicates;
mod error;
mod mark;
mod options;
mod plan;
mod repack;
mod roots;
mod sweep;
mod wait;

use std::sync::Arc;

use crate::format::plan::Plan;
use crate::repository::{Repository, RepositoryError};
use crate::storage::CollectionLock;

pub use error::GcError;
pub use options::{GcEvent, GcOptions, GcReport, Waiting};

use plan::{Planned, Planning};
pub(crate) use wait::writers_at_work;

/// A collection at work: holds the lock that only one may hold.
///
/// The steps are apart so that whoever calls them may stop between any two of them, for good: the
/// next collection goes on with the plan that stands.
pub struct Collection<'o> {
    repository: Arc<Repository>,
    options: GcOptions<'o>,
    report: GcReport,
    lock: CollectionLock,
}

impl<'o> Collection<'o> {
    /// Takes the lock, and clears up after the dead.
    ///
    /// # Errors
    ///
    /// That another collection is at work, among others.
    pub fn begin(repository: &Arc<Repository>, options: GcOptions<'o>) -> Result<Self, GcError> {
        let lock = repository.lock_collection()?;
        let storage = repository.storage();
        storage
            .clear_dead_sessions()
            .map_err(RepositoryError::from)?;
        Ok(Self {
            repository: Arc::clone(repository),
            options,
            report: GcReport::default(),
            lock,
        })
    }

    /// Does what is left of an earlier plan, then plans anew and does that: all that can be done
    /// within the time that the options give for waiting.
    pub fn run(mut self) -> Result<GcReport, GcError> {
        if let Some(earlier) = self.resume()? {
            self.report.resumed = true;
            if !self.finish(earlier, None)? {
                return Ok(self.report);
            }
        }
        if let Some(planned) = self.plan()? {
            let Planned { plan, covered } = planned;
            self.finish(plan, Some(covered))?;
        }
        Ok(self.report)
    }

    /// Says what a collection would do now. Writes nothing.
    pub fn survey(mut self) -> Result<GcReport, GcError> {
        Planning::begin(&self.repository, &self.options, &mut self.report)?.survey()?;
        Ok(self.report)
    }

    /// Returns the plan that an earlier collection left. One that is damaged is dropped: nothing
    /// that it condemned is gone that anybody needs.
    pub fn resume(&mut self) -> Result<Option<Plan>, GcError> {
        match self.repository.collection_plan() {
            Ok(None) => Ok(None),
            Ok(Some(plan)) => Ok(Some(wait::with_writers(&self.repository, plan)?)),
            Err(error) if error.is_damage() => {
                self.report.dropped_plan = true;
                self.repository.delete_plan(&self.lock)?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Plans, and moves what is to stay. `None` where nothing is to go.
    pub fn plan(&mut self) -> Result<Option<Planned>, GcError> {
        Planning::begin(&self.repository, &self.options, &mut self.report)?.carry_out()
    }

    /// Waits, looks again and deletes. Returns whether that was done: writers may be at work for
    /// longer than the options allow to wait.
    fn finish(&mut self, plan: Plan, covered: Option<plan::Covered>) -> Result<bool, GcError> {
        self.report.waiting_for = wait::wait(&self.repository, &plan, &self.options)?;
        if !self.report.waiting_for.is_empty() {
            return Ok(false);
        }
        self.sweep(plan, covered)?;
        Ok(true)
    }

    /// Looks again, and deletes. The writers that the plan names must have ended.
    ///
    /// `covered` is what this very collection knows of the plan; a plan that another made is
    /// believed in nothing but whom to wait for.
    pub fn sweep(&mut self, plan: Plan, covered: Option<plan::Covered>) -> Result<(), GcError> {
        let sweep = sweep::Sweep {
            repository: &self.repository,
            options: &self.options,
            lock: &self.lock,
        };
        sweep.run(plan, covered, &mut self.report)
    }

    /// Returns what was done so far.
    pub fn report(&self) -> &GcReport {
        &self.report
    }
}
