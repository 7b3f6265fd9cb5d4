//! The threads of one disk: a planner, workers that each do whole regions, and an assembler that
//! puts their chunk lists into the recipe in disk order.
//!
//! A worker does everything for its region, so that bytes are read, cut, hashed and compressed
//! while they are in its cache. Tickets bound how far workers may run ahead of the assembler. The
//! first failure stops all; nothing that a failed run stored is referred to by anything.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::BackupError;
use super::disk::Disk;
use super::region::{RegionDone, RegionStats, RegionTask, Worker};
use super::request::IfWritten;
use super::slots::Slots;
use super::written;
use crate::chunker::{BlockSet, Cutter, Geometry};
use crate::extent::{Extent, ExtentStatus};
use crate::limits::{GIB, REGION_LEN};
use crate::progress::{Cancel, Progress};
use crate::recipe::{RecipeBuilder, RecipeRoot};
use crate::repository::{Intake, RepositoryError};

/// Regions that may be planned or done, and not yet be in a recipe, over all disks.
const REGIONS_AHEAD_MAX: usize = 64;
/// Most regions that are done at once, over all disks: each is in memory, and memory is bounded
/// whatever the machine.
const WORKERS_MAX: usize = 6;
/// How much of disks the planners ask the sources about at once, over all disks.
const PLAN_LEN: u64 = GIB;

/// What a run shares.
pub(super) struct Run<'r> {
    pub(super) disk: &'r Disk<'r>,
    pub(super) intake: &'r Intake,
    pub(super) cutter: &'r Cutter,
    pub(super) threads: usize,
    /// The regions that may be in memory, this disk's and those of the others.
    pub(super) slots: &'r Slots,
    /// Which of the lanes this disk is in.
    pub(super) lane: usize,
    /// How many disks are taken in at once.
    pub(super) lanes: usize,
    /// Where this disk's failure goes, and the others' comes from.
    pub(super) failure: &'r Failure,
    pub(super) progress: &'r Progress,
    pub(super) cancel: &'r Cancel,
    pub(super) if_written: IfWritten,
}

/// What came of a disk.
pub(super) struct DiskDone {
    pub(super) root: RecipeRoot,
    pub(super) stats: RegionStats,
    pub(super) stored_bytes: u64,
}

/// The first failure of any thread of any disk, which stops the others.
#[derive(Default)]
pub(super) struct Failure(Mutex<Option<BackupError>>);

impl Failure {
    /// Keeps the error, unless there is one already: later ones may be its consequences.
    pub(super) fn set(&self, error: BackupError) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
    }

    /// Returns whether all should stop.
    pub(super) fn is_set(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Returns the first failure.
    pub(super) fn into_result(self) -> Result<(), BackupError> {
        self.0
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }
}

impl Run<'_> {
    /// Takes the whole disk in, and returns its recipe.
    ///
    /// # Errors
    ///
    /// Where `failure` has the reason, by this disk or another, only that it ended.
    pub(super) fn disk(&self) -> Result<DiskDone, BackupError> {
        let failure = self.failure;
        let (task_sender, tasks) = bounded(WORKERS_MAX);
        let workers_max = workers_max(self.threads, self.disk.source.is_remote());
        let ahead_max = REGIONS_AHEAD_MAX / self.lanes;
        // Room for every region and every end: whoever works never waits to hand over.
        let (done_sender, done) = bounded(ahead_max + workers_max);
        let (ticket_sender, tickets) = bounded(ahead_max);
        for _ in 0..ahead_max {
            ticket_sender
                .send(())
                .expect("the channel has room for every ticket");
        }
        let assembled = thread::scope(|scope| {
            let spawn = |name: String| thread::Builder::new().name(name);
            let planner = spawn("plan".to_owned()).spawn_scoped(scope, move || {
                if let Err(error) = self.plan(&tickets, &task_sender, failure) {
                    failure.set(error);
                }
            });
            planner.map_err(RepositoryError::NoThread)?;
            let mut workers = Vec::with_capacity(workers_max);
            for number in 0..workers_max {
                let (tasks, done) = (tasks.clone(), done_sender.clone());
                let worker = spawn(format!("chunk-{number}")).spawn_scoped(scope, move || {
                    let mut end = End {
                        done: &done,
                        is_good: false,
                    };
                    match self.work(&tasks, &done, failure) {
                        Ok(stored) => {
                            end.is_good = true;
                            stored
                        }
                        Err(error) => {
                            failure.set(error);
                            0
                        }
                    }
                });
                workers.push(worker.map_err(RepositoryError::NoThread)?);
            }
            drop((tasks, done_sender));
            let assembled = self.assemble(&done, &ticket_sender);
            if assembled.is_err() {
                // Whoever waits for a ticket or to hand over a region wakes up and ends.
                drop((ticket_sender, done));
            } else {
                drop(ticket_sender);
            }
            let stored = workers.into_iter().map(|worker| match worker.join() {
                Ok(stored) => stored,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            let stored: u64 = stored.sum();
            Ok::<_, BackupError>((assembled, stored))
        });
        let (assembled, stored_bytes) = assembled?;
        // Then regions were left out, here or wherever the failure is.
        if failure.is_set() {
            return Err(BackupError::Cancelled);
        }
        let (root, stats) = assembled?;
        Ok(DiskDone {
            root,
            stats,
            stored_bytes,
        })
    }

    /// Asks the source what there is, and hands out the regions that have to be read.
    fn plan(
        &self,
        tickets: &Receiver<()>,
        tasks: &Sender<RegionTask>,
        failure: &Failure,
    ) -> Result<(), BackupError> {
        let size = self.disk.shape.size();
        let plan_len = PLAN_LEN / REGION_LEN / self.lanes as u64 * REGION_LEN;
        let mut ordinal = 0;
        let mut start = 0;
        while start < size {
            // Early, so that hours of reading are not for nothing.
            if self.if_written == IfWritten::Refuse {
                written::refuse(self.disk.target, self.disk.source)?;
            }
            let range = start..(start + plan_len).min(size);
            let extents = self.disk.source.extents(range.clone());
            let extents = extents.map_err(|source| self.disk.source_error(source))?;
            let mut rest = extents.as_slice();
            for region in (range.start..range.end).step_by(REGION_LEN as usize) {
                let region = self.disk.region(region);
                let extents = clip(&mut rest, &region);
                assert_tiled(&extents, &region);
                let extents = self.disk.settle_beyond_parent(extents);
                if !self.is_needed(&region, &extents) {
                    Progress::add(&self.progress.done_bytes, region.end - region.start);
                    continue;
                }
                if self.cancel.is_cancelled() {
                    return Err(BackupError::Cancelled);
                }
                let task = RegionTask {
                    ordinal,
                    start: region.start,
                    extents,
                };
                if tickets.recv().is_err() || failure.is_set() || tasks.send(task).is_err() {
                    return Ok(());
                }
                ordinal += 1;
            }
            start = range.end;
        }
        Ok(())
    }

    /// Returns whether a region may differ from what its windows are without it: the parent's, or
    /// holes.
    fn is_needed(&self, region: &Range<u64>, extents: &[Extent]) -> bool {
        let has = |status| extents.iter().any(|extent| extent.status == status);
        match &self.disk.parent {
            None => has(ExtentStatus::Data) || has(ExtentStatus::Unchanged),
            Some(parent) => {
                let parent_len = parent.shape().size();
                // Windows beyond the parent are holes unless they are set.
                let zero_counts = region.start < parent_len;
                let same = Geometry::DISK.is_untouched(region, parent_len, &BlockSet::default());
                has(ExtentStatus::Data)
                    || self.disk.kept.lost_in(region).next().is_some()
                    || (has(ExtentStatus::Zero) || !same) && zero_counts
                    || has(ExtentStatus::Unchanged) && !same
            }
        }
    }

    /// Does regions until there are no more; returns the stored bytes of the frames made.
    fn work(
        &self,
        tasks: &Receiver<RegionTask>,
        done: &Sender<Option<RegionDone>>,
        failure: &Failure,
    ) -> Result<u64, BackupError> {
        let mut worker = Worker {
            disk: self.disk,
            intake: self.intake,
            cutter: self.cutter,
            framer: self.intake.framer(),
            stored_bytes: 0,
        };
        for task in tasks {
            // A failure too: the assembler must not wait for a region that another disk's stopped.
            let is_stopped = || failure.is_set() || self.cancel.is_cancelled();
            let slot = self.slots.take(self.lane, is_stopped);
            let Some(mut slot) = slot.map_err(RepositoryError::NoThread)? else {
                return Err(BackupError::Cancelled);
            };
            let region = worker.region(task, slot.buffer())?;
            drop(slot);
            let read = region.stats.source_bytes + region.stats.parent_bytes;
            Progress::add(&self.progress.read_bytes, read);
            if done.send(Some(region)).is_err() {
                return Ok(0);
            }
        }
        worker.flush()?;
        Ok(worker.stored_bytes)
    }

    /// Puts chunk lists into the recipe in disk order.
    fn assemble(
        &self,
        done: &Receiver<Option<RegionDone>>,
        tickets: &Sender<()>,
    ) -> Result<(RecipeRoot, RegionStats), BackupError> {
        let mut nodes = self.intake.node_writer();
        let mut builder = RecipeBuilder::new(self.disk.shape, &mut nodes, self.disk.parent);
        let recipe_error = |source| self.disk.recipe_error(source);
        let mut stats = RegionStats::default();
        let mut early = BTreeMap::new();
        let mut next = 0;
        for region in done {
            // A worker that failed has said why; its region will never come.
            let Some(region) = region else {
                return Err(BackupError::Cancelled);
            };
            early.insert(region.ordinal, region);
            while let Some(region) = early.remove(&next) {
                builder
                    .set_region(region.start, &region.chunks)
                    .map_err(recipe_error)?;
                stats.add(&region.stats);
                let range = self.disk.region(region.start);
                Progress::add(&self.progress.done_bytes, range.end - range.start);
                Progress::add(&self.progress.written_bytes, region.stats.new_bytes);
                next += 1;
                // The planner may have ended; then nobody waits for tickets.
                let _: Result<(), TrySendError<()>> = tickets.try_send(());
            }
        }
        let root = builder.finish().map_err(recipe_error)?;
        nodes.flush()?;
        Ok((root, stats))
    }
}

/// Returns how many threads do regions. Where they wait for a server, half of them leave the
/// processors to the others.
pub(super) fn workers_max(threads: usize, is_remote: bool) -> usize {
    let per_thread = if is_remote { 2 } else { 1 };
    threads.saturating_mul(per_thread).clamp(1, WORKERS_MAX)
}

/// Tells the assembler when a worker ends without having done its regions, by a failure or a panic:
/// else it would wait for them, and everyone for it.
struct End<'e> {
    done: &'e Sender<Option<RegionDone>>,
    is_good: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if !self.is_good {
            // Where nobody listens any more, all have ended already.
            drop(self.done.send(None));
        }
    }
}

impl RegionStats {
    fn add(&mut self, other: &Self) {
        self.source_bytes += other.source_bytes;
        self.parent_bytes += other.parent_bytes;
        self.dirty_bytes += other.dirty_bytes;
        self.new_chunks += other.new_chunks;
        self.new_bytes += other.new_bytes;
    }
}

/// A source whose extents leave a gap would have another region's bytes backed up in its place.
fn assert_tiled(extents: &[Extent], region: &Range<u64>) {
    let end = extents.iter().fold(region.start, |at, extent| {
        assert_eq!(
            extent.offset, at,
            "the extents of a source must tile the range asked for"
        );
        extent.range().end
    });
    assert_eq!(
        end, region.end,
        "the extents of a source must tile the range asked for"
    );
}

/// Takes from a list of extents what lies in `region`; extents that reach further stay.
fn clip(extents: &mut &[Extent], region: &Range<u64>) -> Vec<Extent> {
    let mut clipped = Vec::new();
    while let Some(extent) = extents.first() {
        let range = extent.range();
        let (start, end) = (range.start.max(region.start), range.end.min(region.end));
        if start < end {
            clipped.push(Extent {
                offset: start,
                len: end - start,
                status: extent.status,
            });
        }
        if range.end > region.end {
            break;
        }
        *extents = &extents[1..];
    }
    clipped
}
