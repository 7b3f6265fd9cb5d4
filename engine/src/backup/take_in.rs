//! Takes the disks of a backup in: by their changes where the parent can be relied on, and whole
//! where it turns out that it cannot.
//!
//! Several are read at once: one disk alone leaves the threads idle while its source is asked and
//! its last regions are done.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::BackupError;
use super::disk::Disk;
use super::pipeline::{Failure, Run, workers_max};
use super::record::record;
use super::request::{BackupRequest, DiskRequest, Doubt, Warning};
use super::slots::Slots;
use crate::chunker::{Cutter, GearTable};
use crate::format::manifest::{DiskMode, DiskRecord};
use crate::progress::{Cancel, Progress};
use crate::recipe::{Recipe, Shape};
use crate::repository::{Contents, Intake, RepositoryError};

/// What taking the disks in needs.
pub(super) struct TakeIn<'t> {
    pub(super) contents: &'t Contents,
    pub(super) intake: &'t Intake,
    pub(super) request: &'t BackupRequest,
    pub(super) threads: usize,
    pub(super) audit_percent: u8,
    pub(super) progress: &'t Progress,
    pub(super) cancel: &'t Cancel,
}

/// What came of all disks, in the order of the request.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) disks: Vec<DiskRecord>,
    pub(super) warnings: Vec<Warning>,
}

/// What the lanes share.
struct Lanes {
    count: usize,
    slots: Slots,
    failure: Failure,
    cutter: Cutter,
    /// The disk that is taken in next.
    next: AtomicUsize,
}

/// The place in the request, and what came of the disk there.
type Done = (usize, DiskRecord, Vec<Warning>);

/// Stops the other lanes when one panics: the backup is lost, and they would go on for hours.
struct StopOnPanic<'s>(&'s Failure);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set(BackupError::Cancelled);
        }
    }
}

impl TakeIn<'_> {
    /// Takes all disks in, several at once.
    pub(super) fn all(&self) -> Result<Taken, BackupError> {
        let lanes = self.lanes();
        let done = Mutex::new(Vec::with_capacity(self.request.disks.len()));
        thread::scope(|scope| {
            for lane in 0..lanes.count {
                let (lanes, done) = (&lanes, &done);
                let thread = thread::Builder::new().name(format!("disk-{lane}"));
                let run = move || self.lane(lanes, lane, done);
                if let Err(error) = thread.spawn_scoped(scope, run) {
                    lanes.failure.set(RepositoryError::NoThread(error).into());
                }
            }
        });
        lanes.failure.into_result()?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(place, _, _)| *place);
        let mut taken = Taken::default();
        for (_, record, warnings) in done {
            taken.disks.push(record);
            taken.warnings.extend(warnings);
        }
        Ok(taken)
    }

    fn lanes(&self) -> Lanes {
        let repository = self.contents.repository();
        let gear = repository
            .keys()
            .gear()
            .map_or_else(GearTable::public, GearTable::keyed);
        let is_remote = self
            .request
            .disks
            .iter()
            .any(|disk| disk.source.is_remote());
        let workers = workers_max(self.threads, is_remote);
        let count = self.threads.min(self.request.disks.len()).clamp(1, workers);
        Lanes {
            count,
            slots: Slots::new(workers, count),
            failure: Failure::default(),
            cutter: Cutter::new(repository.chunker().cut_params(), gear),
            next: AtomicUsize::new(0),
        }
    }

    /// Takes in one disk after the other, until there are no more or one has failed.
    fn lane(&self, lanes: &Lanes, lane: usize, done: &Mutex<Vec<Done>>) {
        let _stop = StopOnPanic(&lanes.failure);
        while !lanes.failure.is_set() {
            let place = lanes.next.fetch_add(1, Ordering::Relaxed);
            let Some(wanted) = self.request.disks.get(place) else {
                break;
            };
            match self.disk(wanted, lanes, lane) {
                Ok((record, warnings)) => {
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((place, record, warnings));
                }
                Err(error) => lanes.failure.set(error),
            }
        }
        lanes.slots.retire(lane);
    }

    fn disk(
        &self,
        wanted: &DiskRequest,
        lanes: &Lanes,
        lane: usize,
    ) -> Result<(DiskRecord, Vec<Warning>), BackupError> {
        let mut warnings = Vec::new();
        let mut disk = self.open(wanted)?;
        if !disk.is_parent_whole()? {
            self.drop_parent(&mut disk, Doubt::ParentDamaged, &mut warnings)?;
        }
        // Before the samples, upon which the disk is read whole without a word of failure.
        self.run(&disk, lanes, lane).audit(self.audit_percent)?;
        let mut done = self.run(&disk, lanes, lane).disk()?;
        if let Some(offset) = disk.find_mismatch(done.stats.dirty_bytes)? {
            self.drop_parent(&mut disk, Doubt::NotUnchanged { offset }, &mut warnings)?;
            done = self.run(&disk, lanes, lane).disk()?;
        }
        if let Some(reason) = wanted.source.untold() {
            let (target, doubt) = (wanted.target.clone(), Doubt::Untold { reason });
            warnings.push(Warning { target, doubt });
        }
        let mode = match (
            &disk.parent,
            self.request.is_known_vm || wanted.changes_only,
        ) {
            (Some(_), _) => DiskMode::Incremental,
            (None, true) => DiskMode::Scan,
            (None, false) => DiskMode::Full,
        };
        Ok((record(wanted, mode, &done), warnings))
    }

    fn open<'d>(&'d self, wanted: &'d DiskRequest) -> Result<Disk<'d>, BackupError> {
        let target = wanted.target.as_str();
        let window_len = self.contents.repository().chunker().window_len();
        let recipe_error = |source| BackupError::Recipe {
            target: target.to_owned(),
            source,
        };
        let shape = Shape::new(wanted.source.size(), window_len).map_err(recipe_error)?;
        let parent = self
            .request
            .parent
            .as_ref()
            .and_then(|parent| parent.disk(target));
        let parent = match (wanted.changes_only, parent) {
            (false, _) => None,
            (true, None) => {
                return Err(BackupError::NoParent {
                    target: target.to_owned(),
                });
            }
            (true, Some(disk)) => {
                let shape = Shape::new(disk.size, window_len).map_err(recipe_error)?;
                Some(Recipe::new(self.contents, shape, disk.recipe))
            }
        };
        Ok(Disk {
            target,
            source: &*wanted.source,
            contents: self.contents,
            shape,
            parent,
        })
    }

    /// Lets the disk be read whole, where the source has all of it.
    fn drop_parent(
        &self,
        disk: &mut Disk<'_>,
        doubt: Doubt,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), BackupError> {
        let target = disk.target.to_owned();
        if !disk.source.has_unchanged() {
            return Err(BackupError::ParentDamaged { target });
        }
        disk.parent = None;
        Progress::add(&self.progress.total_bytes, disk.shape.size());
        warnings.push(Warning { target, doubt });
        Ok(())
    }

    fn run<'r>(&'r self, disk: &'r Disk<'r>, lanes: &'r Lanes, lane: usize) -> Run<'r> {
        Run {
            disk,
            intake: self.intake,
            cutter: &lanes.cutter,
            threads: self.threads,
            slots: &lanes.slots,
            lane,
            lanes: lanes.count,
            failure: &lanes.failure,
            progress: self.progress,
            cancel: self.cancel,
        }
    }
}
