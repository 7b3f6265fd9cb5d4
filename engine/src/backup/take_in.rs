//! Takes the disks of a backup in: by their changes where the parent can be relied on, and whole
//! where it turns out that it cannot.

use super::BackupError;
use super::disk::Disk;
use super::pipeline::{DiskDone, Run};
use super::record::record;
use super::request::{BackupOptions, BackupRequest, DiskRequest, Doubt, Warning};
use crate::chunker::{Cutter, GearTable};
use crate::format::manifest::{DiskMode, DiskRecord};
use crate::progress::Progress;
use crate::recipe::{Recipe, Shape};
use crate::repository::{Contents, Intake};

/// What taking the disks in needs.
pub(super) struct TakeIn<'t> {
    pub(super) contents: &'t Contents,
    pub(super) intake: &'t Intake,
    pub(super) request: &'t BackupRequest,
    pub(super) options: &'t BackupOptions<'t>,
}

impl TakeIn<'_> {
    /// Takes all disks in, one after the other.
    pub(super) fn disks(&self) -> Result<(Vec<DiskRecord>, Vec<Warning>), BackupError> {
        let repository = self.contents.repository();
        let gear = repository
            .keys()
            .gear()
            .map_or_else(GearTable::public, GearTable::keyed);
        let cutter = Cutter::new(repository.chunker().cut_params(), gear);
        let mut records = Vec::with_capacity(self.request.disks.len());
        let mut warnings = Vec::new();
        for wanted in &self.request.disks {
            let mut disk = self.open(wanted)?;
            if !disk.is_parent_whole()? {
                self.drop_parent(&mut disk, Doubt::ParentDamaged, &mut warnings)?;
            }
            let mut done = self.run(&disk, &cutter)?;
            if let Some(offset) = disk.find_mismatch(done.stats.dirty_bytes)? {
                self.drop_parent(&mut disk, Doubt::NotUnchanged { offset }, &mut warnings)?;
                done = self.run(&disk, &cutter)?;
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
            records.push(record(wanted, mode, &done));
        }
        Ok((records, warnings))
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
        Progress::add(&self.options.progress.total_bytes, disk.shape.size());
        warnings.push(Warning { target, doubt });
        Ok(())
    }

    fn run(&self, disk: &Disk<'_>, cutter: &Cutter) -> Result<DiskDone, BackupError> {
        let BackupOptions {
            threads,
            progress,
            cancel,
        } = *self.options;
        Run {
            disk,
            intake: self.intake,
            cutter,
            threads,
            progress,
            cancel,
        }
        .disk()
    }
}
