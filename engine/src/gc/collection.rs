//! The steps of a collection, one after the other.

use std::sync::Arc;

use crate::format::plan::Plan;
use crate::repository::{Repository, RepositoryError};
use crate::storage::CollectionLock;

use super::plan::{self, Planned, Planning};
use super::{GcError, GcOptions, GcReport, parity, sweep, wait};

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
    /// within the time that the options give for waiting. On a full medium it takes to what is kept
    /// back for it.
    pub fn run(mut self) -> Result<GcReport, GcError> {
        match self.run_once() {
            Err(error) if error.is_no_space() => {
                let storage = self.repository.storage();
                match storage.release_reserve()? {
                    true => self.run_once()?,
                    false => return Err(error),
                }
            }
            done => done?,
        }
        // Where there is no room for it, the next collection tries again.
        drop(self.repository.storage().keep_reserve());
        Ok(self.report)
    }

    fn run_once(&mut self) -> Result<(), GcError> {
        if let Some(earlier) = self.resume()? {
            self.report.resumed = true;
            if !self.finish(earlier, None)? {
                return Ok(());
            }
        }
        loop {
            let before = self.report.deleted_packs;
            self.report.was_full = false;
            match self.plan()? {
                Some(Planned { plan, covered }) => {
                    if !self.finish(plan, Some(covered))? {
                        return Ok(());
                    }
                }
                // What an interrupted collection or a repair left.
                None => parity::delete(&self.repository, &mut self.report)?,
            }
            // What went has made room for what could not be moved.
            if !self.report.was_full || self.report.deleted_packs == before {
                return Ok(());
            }
        }
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
