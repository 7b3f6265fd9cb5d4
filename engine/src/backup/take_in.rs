//! Takes the disks and files of a backup in: by their changes where the parent can be relied on,
//! and whole where it turns out that it cannot.
//!
//! Several are read at once: one disk alone leaves the threads idle while its source is asked and
//! its last regions are done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::BackupError;
use super::disk::Disk;
use super::parent::Kept;
use super::pipeline::{Failure, Run, workers_max};
use super::record;
use super::request::{BackupRequest, DiskRequest, Doubt, FileRequest, IfWritten, Warning};
use super::slots::Slots;
use crate::chunker::{Cutter, GearTable};
use crate::format::manifest::{DiskMode, DiskRecord, FileRecord};
use crate::id::NodeId;
use crate::progress::{Cancel, Progress};
use crate::recipe::{Recipe, Shape};
use crate::repository::{Contents, Intake, Needs, RepositoryError};
use crate::source::Source;

/// What taking the disks in needs.
pub(super) struct TakeIn<'t> {
    pub(super) contents: &'t Contents,
    pub(super) intake: &'t Intake,
    pub(super) request: &'t BackupRequest,
    pub(super) threads: usize,
    pub(super) audit_percent: u8,
    pub(super) if_written: IfWritten,
    pub(super) progress: &'t Progress,
    pub(super) cancel: &'t Cancel,
}

/// What came of all disks and files, in the order of the request.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) disks: Vec<DiskRecord>,
    pub(super) files: Vec<FileRecord>,
    pub(super) warnings: Vec<Warning>,
    /// The recipes of disks, each with the packs that it needs of what was there before.
    pub(super) needs: Vec<(NodeId, Needs)>,
}

/// What the lanes share.
struct Lanes {
    count: usize,
    slots: Slots,
    failure: Failure,
    cutter: Cutter,
    /// The disk that is taken in next; files count on from the last disk.
    next: AtomicUsize,
}

/// What came of one disk or file.
enum Done {
    Disk(Box<DiskRecord>, Vec<Warning>, Option<Needs>),
    File(FileRecord),
}

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
        let done = Mutex::default();
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
        let done: BTreeMap<usize, Done> = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Taken::default();
        for done in done.into_values() {
            match done {
                Done::Disk(record, warnings, needs) => {
                    taken
                        .needs
                        .extend(needs.map(|needs| (record.recipe, needs)));
                    taken.disks.push(*record);
                    taken.warnings.extend(warnings);
                }
                Done::File(record) => taken.files.push(record),
            }
        }
        Ok(taken)
    }

    fn lanes(&self) -> Lanes {
        let repository = self.contents.repository();
        let gear = repository
            .keys()
            .gear()
            .map_or_else(GearTable::public, GearTable::keyed);
        let BackupRequest { disks, files, .. } = self.request;
        let is_remote = disks.iter().any(|disk| disk.source.is_remote());
        let workers = workers_max(self.threads, is_remote);
        let count = self
            .threads
            .min(disks.len() + files.len())
            .clamp(1, workers);
        Lanes {
            count,
            slots: Slots::new(workers, count),
            failure: Failure::default(),
            cutter: Cutter::new(repository.chunker().cut_params(), gear),
            next: AtomicUsize::new(0),
        }
    }

    /// Takes in one disk after the other, until there are no more or one has failed.
    fn lane(&self, lanes: &Lanes, lane: usize, all: &Mutex<BTreeMap<usize, Done>>) {
        let _stop = StopOnPanic(&lanes.failure);
        let BackupRequest { disks, files, .. } = self.request;
        while !lanes.failure.is_set() {
            let place = lanes.next.fetch_add(1, Ordering::Relaxed);
            let done = if let Some(wanted) = disks.get(place) {
                self.disk(wanted, lanes, lane)
            } else if let Some(wanted) = files.get(place - disks.len()) {
                self.file(wanted, lanes, lane)
            } else {
                break;
            };
            match done {
                Ok(done) => {
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    all.insert(place, done);
                }
                Err(error) => lanes.failure.set(error),
            }
        }
        lanes.slots.retire(lane);
    }

    fn file(&self, wanted: &FileRequest, lanes: &Lanes, lane: usize) -> Result<Done, BackupError> {
        let file = self.disk_of(&wanted.name, &*wanted.source, None)?;
        let done = self.run(&file, lanes, lane).disk()?;
        Ok(Done::File(record::file(wanted, &done)))
    }

    fn disk(&self, wanted: &DiskRequest, lanes: &Lanes, lane: usize) -> Result<Done, BackupError> {
        let mut warnings = Vec::new();
        let mut disk = self.open(wanted)?;
        let is_torn = disk.parent.is_some() && self.is_parent_torn(&wanted.target);
        match disk.look_at_parent(self.intake, self.cancel)? {
            _ if is_torn => self.drop_parent(&mut disk, Doubt::ParentTorn, &mut warnings)?,
            Some(kept) => disk.keep(kept, &mut warnings),
            None => self.drop_parent(&mut disk, Doubt::ParentDamaged, &mut warnings)?,
        }
        // Before the samples, upon which the disk is read whole without a word of failure.
        self.run(&disk, lanes, lane).audit(self.audit_percent)?;
        let mut done = self.run(&disk, lanes, lane).disk()?;
        if let Some(offset) = disk.find_mismatch(done.stats.dirty_bytes)? {
            self.drop_parent(&mut disk, Doubt::NotUnchanged { offset }, &mut warnings)?;
            done = self.run(&disk, lanes, lane).disk()?;
        }
        // Whoever asked knows of the first doubt; ours come later.
        let found = || warnings.first().map(|warning| warning.doubt.to_string());
        let doubt = wanted.doubt.clone().or_else(found);
        if let Some(reason) = wanted.source.untold() {
            let (target, doubt) = (wanted.target.clone(), Doubt::Untold { reason });
            warnings.push(Warning { target, doubt });
        }
        let mode = match (&disk.parent, wanted.is_known || wanted.changes_only) {
            (Some(_), _) => DiskMode::Incremental,
            (None, true) => DiskMode::Scan,
            (None, false) => DiskMode::Full,
        };
        let record = record::disk(wanted, mode, doubt, &done);
        Ok(Done::Disk(Box::new(record), warnings, disk.kept.needs))
    }

    fn is_parent_torn(&self, target: &str) -> bool {
        let parent = self.request.parent.as_ref();
        let parent = parent.and_then(|parent| parent.disk(target));
        parent.is_some_and(|disk| disk.torn.is_some())
    }

    fn open<'d>(&'d self, wanted: &'d DiskRequest) -> Result<Disk<'d>, BackupError> {
        let target = wanted.target.as_str();
        let parent = self.request.parent.as_ref();
        let parent = parent.and_then(|parent| parent.disk(target));
        if wanted.changes_only && parent.is_none() {
            return Err(BackupError::NoParent {
                target: target.to_owned(),
            });
        }
        self.disk_of(
            target,
            &*wanted.source,
            parent.filter(|_| wanted.changes_only),
        )
    }

    fn disk_of<'d>(
        &'d self,
        target: &'d str,
        source: &'d dyn Source,
        parent: Option<&DiskRecord>,
    ) -> Result<Disk<'d>, BackupError> {
        let window_len = self.contents.repository().chunker().window_len();
        let shape = |size| {
            Shape::new(size, window_len).map_err(|source| BackupError::Recipe {
                target: target.to_owned(),
                source,
            })
        };
        let recipe = |disk: &DiskRecord| {
            let shape = shape(disk.size)?;
            Ok::<_, BackupError>(Recipe::new(self.contents, shape, disk.recipe))
        };
        Ok(Disk {
            target,
            source,
            contents: self.contents,
            shape: shape(source.size())?,
            parent: parent.map(recipe).transpose()?,
            kept: Kept::default(),
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
            return Err(match doubt {
                Doubt::ParentTorn => BackupError::ParentTorn { target },
                _ => BackupError::ParentDamaged { target },
            });
        }
        disk.parent = None;
        disk.kept = Kept::default();
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
            if_written: self.if_written,
        }
    }
}
