//! A domain that is off: its images are read as they lie, and nobody else may change them
//! meanwhile, or is found out.
//!
//! libvirt makes no checkpoints of domains that are off. So the bitmaps are added and removed by
//! `qemu-img`, and libvirt is told of the checkpoint afterwards.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use jiff::Timestamp;

use super::extras::Extras;
use super::options::Offline;
use super::plan::{Parent, Plan, PlannedDisk};
use super::pull;
use super::scratch::Scratch;
use super::view::{Hold, Run, View};
use super::watch::{Look, Trouble, Watch};
use crate::backup::DiskRequest;
use crate::child;
use crate::domain::DomainError;
use crate::domain::hook::{self, Phase};
use crate::domain::run_folder::{RunFolder, RunRecord};
use crate::format::Unknown;
use crate::format::domain::{Consistency, LeftOut, Method};
use crate::repository::Snapshot;
use crate::source::libvirt::xml::{Checkpoint, DiskSource, DomainDisk, checkpoint_xml};
use crate::source::libvirt::{Domain, ImageLock, Transport};
use crate::source::{self, FileState, Format, Origin, SourceError, SourceSpec, bitmaps};

/// Returns the newest of a domain's snapshots whose checkpoint has an intact bitmap in an image; if
/// none has, the newest with a checkpoint.
pub(super) fn newest_proven(
    domain: &Domain,
    disks: &[&DomainDisk],
    snapshots: &[Snapshot],
) -> Option<Parent> {
    let mut broken = None;
    for snapshot in snapshots.iter().rev() {
        let record = snapshot.manifest.domain.as_ref();
        let Some(record) = record.filter(|record| record.uuid == domain.uuid()) else {
            continue;
        };
        let Some(name) = &record.checkpoint else {
            continue;
        };
        let with_bitmap = disks.iter().filter(|disk| {
            let identity = snapshot
                .disk(&disk.target)
                .and_then(|disk| disk.identity.as_ref());
            identity.is_some_and(|identity| identity.bitmap.as_ref() == Some(name))
        });
        let mut parent = Parent {
            snapshot: snapshot.clone(),
            checkpoint: Checkpoint {
                name: name.clone(),
                description: String::new(),
                created: record.checkpoint_time,
                disks: Vec::new(),
            },
            faults: BTreeMap::new(),
        };
        for disk in with_bitmap {
            let spec = spec(disk, Some(name), parent.origin(&disk.target));
            let marked = match spec.map(|spec| source::open(&spec)) {
                // How much it marks is not counted; that it is intact is what matters.
                Some(Ok(_)) => Some(0),
                Some(Err(error)) => {
                    parent.faults.insert(disk.target.clone(), error.to_string());
                    None
                }
                None => None,
            };
            parent.checkpoint.disks.push((disk.target.clone(), marked));
        }
        if parent.is_proven() {
            return Some(parent);
        }
        broken.get_or_insert(parent);
    }
    broken
}

/// Opens a view of the images.
pub(super) fn open(run: &Run<'_>, plan: &mut Plan) -> Result<View, DomainError> {
    if *run.transport != Transport::Local {
        return Err(DomainError::Off {
            domain: run.domain.name().to_owned(),
        });
    }
    leave_out_others(plan)?;
    hook::run(&run.options.hooks, Phase::BeforeJob, run.told)?;
    let name = run.name.to_string();
    let record = record(run, plan);
    let folder = RunFolder::make(run.run_folder(), run.name.drawn(), None, record)?;
    let mut hold = OfflineHold {
        domain: run.domain.clone(),
        checkpoint: name.clone(),
        folder,
        watch: None,
        images: Vec::new(),
        seen: Vec::new(),
        devices: Vec::new(),
        locks: Vec::new(),
        ended: false,
    };
    hold.add_bitmaps(plan)?;
    let time = Timestamp::now();
    let targets: Vec<String> = with_bitmap(plan);
    let described = checkpoint_xml(
        &name,
        "made by cairn",
        Some(time.as_second()),
        &targets,
        &[],
    );
    let is_known = targets.is_empty() || run.domain.checkpoint_redefine(&described, false).is_ok();
    let mut warnings = Vec::new();
    if !is_known {
        // It stands in the manifest, and is defined by the next backup.
        warnings.push("libvirt takes no word of the new checkpoint yet".to_owned());
    }
    if run.options.offline == Offline::Lock {
        hold.lock(plan)?;
    }
    hold.look(run, plan)?;
    warnings.extend(hold.doubts(run)?);
    let disks = plan.disks.iter().map(|planned| request(run, planned));
    let disks = disks.collect::<Result<Vec<_>, _>>()?;
    if run.domain.state()?.has_process() {
        return Err(started(run.domain));
    }
    hold.watch = Some(watch(run)?);
    let extras = Extras::read(run);
    Ok(View {
        disks,
        files: extras.files,
        metadata: std::collections::BTreeMap::new(),
        not_saved: extras.not_saved,
        method: Method::Offline,
        consistency: Consistency::Offline,
        checkpoint: (!targets.is_empty()).then(|| (name, Some(time.as_second()))),
        time,
        frozen_ms: None,
        warnings,
        hold: Box::new(hold),
    })
}

fn record(run: &Run<'_>, plan: &Plan) -> RunRecord {
    RunRecord {
        uuid: run.domain.uuid().to_owned(),
        name: run.domain.name().to_owned(),
        pid: std::process::id(),
        checkpoint: Some(run.name.to_string()),
        scratch: Vec::new(),
        overlays: Vec::new(),
        images: images(plan),
        frozen: None,
        published: false,
        remote: None,
    }
}

fn watch(run: &Run<'_>) -> Result<Watch, DomainError> {
    // A start that the lock refuses looks like one for a moment.
    let look: Look = match run.options.offline {
        Offline::Lock => |_| None,
        Offline::Detect => runs,
    };
    let watch = Watch::start(
        look,
        run.domain.clone(),
        Scratch::none(),
        run.options.cancel.clone(),
        run.stop.clone(),
    );
    watch.map_err(|error| DomainError::GivenUp {
        reason: format!("no thread can be started to watch the domain: {error}"),
    })
}

/// Looks whether the domain was started.
fn runs(domain: &Domain) -> Option<Trouble> {
    let runs = domain.state().is_ok_and(|state| state.has_process());
    runs.then(|| Trouble::Other("the domain was started while it was read".to_owned()))
}

fn started(domain: &Domain) -> DomainError {
    DomainError::Started {
        domain: domain.name().to_owned(),
    }
}

/// Moves what only QEMU can read out of the plan.
fn leave_out_others(plan: &mut Plan) -> Result<(), DomainError> {
    let (here, others): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.disks)
        .into_iter()
        .partition(|planned| path(&planned.disk).is_some() && format(&planned.disk).is_some());
    plan.disks = here;
    plan.unreadable
        .extend(others.into_iter().map(|planned| LeftOut {
            target: planned.disk.target,
            reason: "it can be read only while the domain runs".to_owned(),
            unknown: Unknown::new(),
        }));
    if plan.disks.is_empty() {
        return Err(DomainError::GivenUp {
            reason: "no disk can be read while the domain is off".to_owned(),
        });
    }
    Ok(())
}

fn with_bitmap(plan: &Plan) -> Vec<String> {
    let disks = plan
        .disks
        .iter()
        .filter(|planned| planned.can_have_bitmap());
    disks.map(|planned| planned.disk.target.clone()).collect()
}

fn path(disk: &DomainDisk) -> Option<&Path> {
    match &disk.source {
        DiskSource::File(path) | DiskSource::Block(path) => Some(path),
        _ => None,
    }
}

fn format(disk: &DomainDisk) -> Option<Format> {
    match disk.format.as_str() {
        "qcow2" => Some(Format::Qcow2),
        "raw" => Some(Format::Raw),
        _ => None,
    }
}

/// Names an image as libvirt does; its chain is the domain's own.
fn spec(disk: &DomainDisk, bitmap: Option<&str>, origin: Option<Origin>) -> Option<SourceSpec> {
    let format = format(disk)?;
    let is_qcow2 = format == Format::Qcow2;
    Some(SourceSpec {
        format: Some(format),
        backing: is_qcow2,
        data_file: is_qcow2,
        bitmap: bitmap.map(str::to_owned),
        origin,
        ..SourceSpec::new(path(disk)?)
    })
}

/// Returns a closure that says which disk cannot be opened.
fn failed(run: &Run<'_>, planned: &PlannedDisk) -> impl Fn(SourceError) -> DomainError {
    let (domain, target) = (run.domain.clone(), planned.disk.target.clone());
    move |source| match source {
        SourceError::InUse { .. } => started(&domain),
        source => DomainError::Source {
            target: target.clone(),
            source,
        },
    }
}

fn request(run: &Run<'_>, planned: &PlannedDisk) -> Result<DiskRequest, DomainError> {
    let since = pull::since(run, planned);
    let origin = run.origin(&planned.disk);
    let spec =
        spec(&planned.disk, since.as_deref(), origin).ok_or_else(|| DomainError::GivenUp {
            reason: format!("disk {} cannot be named", planned.disk.target),
        })?;
    let source = source::open(&spec).map_err(failed(run, planned))?;
    Ok(pull::disk_request(run, planned, source, since))
}

/// Lets `qemu-img` change an image's bitmaps.
fn qemu_img(what: &[&str], image: &Path, bitmap: &str) -> Result<(), DomainError> {
    let mut command = child::program("qemu-img");
    command
        .args(what)
        .args(["-f", "qcow2", "--"])
        .arg(image)
        .arg(bitmap);
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(DomainError::file("run qemu-img on", image))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = std::io::Error::other(said.trim().to_owned());
    Err(DomainError::file("change the bitmaps of", image)(said))
}

/// Removes a checkpoint's bitmaps from images, where the domain is off.
pub(in crate::domain) fn remove_bitmaps(
    domain: &Domain,
    images: &[PathBuf],
    name: &str,
) -> Result<(), DomainError> {
    if domain.state()?.has_process() {
        return Ok(());
    }
    for image in images {
        // An image may not have it.
        drop(qemu_img(&["bitmap", "--remove"], image, name));
    }
    Ok(())
}

/// Deletes the checkpoints of a repository but for those to be kept, with their bitmaps in images.
pub(super) fn delete_others(
    domain: &Domain,
    images: &[PathBuf],
    is_ours: impl Fn(&str) -> bool,
) -> Result<(), DomainError> {
    for name in domain
        .checkpoints()?
        .into_iter()
        .filter(|name| is_ours(name))
    {
        remove_bitmaps(domain, images, &name)?;
        domain.checkpoint_forget(&name)?;
    }
    if domain.state()?.has_process() {
        return Ok(());
    }
    // libvirt may have lost their checkpoints, as where the domain was undefined.
    for image in images {
        let names = bitmaps::names(image).unwrap_or_default();
        for name in names.iter().filter(|name| is_ours(name)) {
            drop(bitmaps::remove(image, name));
        }
    }
    Ok(())
}

/// Returns the images of a plan that may have bitmaps.
pub(super) fn images(plan: &Plan) -> Vec<PathBuf> {
    let disks = plan
        .disks
        .iter()
        .filter(|planned| planned.can_have_bitmap());
    disks
        .filter_map(|planned| path(&planned.disk).map(Path::to_owned))
        .collect()
}

/// Images that nobody changes.
struct OfflineHold {
    domain: Domain,
    checkpoint: String,
    folder: RunFolder,
    watch: Option<Watch>,
    /// Those that have the new bitmap.
    images: Vec<PathBuf>,
    /// What all files were when the reading began.
    seen: Vec<(PathBuf, FileState)>,
    /// Those of them that do not tell whether they are written to: block devices.
    devices: Vec<PathBuf>,
    locks: Vec<ImageLock>,
    ended: bool,
}

impl OfflineHold {
    /// Adds the new bitmap to the images. One that takes none is read all the same.
    fn add_bitmaps(&mut self, plan: &mut Plan) -> Result<(), DomainError> {
        for planned in plan.disks.iter_mut().filter(|it| it.can_have_bitmap()) {
            let Some(image) = path(&planned.disk).map(Path::to_owned) else {
                continue;
            };
            // Recorded first: what fails midway may have added it.
            self.images.push(image.clone());
            if let Err(error) = qemu_img(&["bitmap", "--add"], &image, &self.checkpoint) {
                if self.domain.state()?.has_process() {
                    return Err(started(&self.domain));
                }
                let why = error.source().map(ToString::to_string);
                planned.no_bitmap = Some(format!("{error}: {}", why.unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// Looks at the images, and at all files that they name.
    fn look(&mut self, run: &Run<'_>, plan: &Plan) -> Result<(), DomainError> {
        for planned in &plan.disks {
            let Some(image) = path(&planned.disk) else {
                continue;
            };
            self.look_at(image)?;
            // After the image itself: what it names from now on is what is read.
            let spec = spec(&planned.disk, None, None);
            let named = spec.map(|spec| source::named_files(&spec).map_err(failed(run, planned)));
            for file in named.transpose()?.unwrap_or_default() {
                self.look_at(&file)?;
            }
        }
        Ok(())
    }

    fn look_at(&mut self, file: &Path) -> Result<(), DomainError> {
        let found = FileState::of(file).map_err(DomainError::file("look at", file))?;
        if !found.is_telling() {
            self.devices.push(file.to_owned());
        }
        self.seen.push((file.to_owned(), found));
        Ok(())
    }

    /// Returns what the user should know of what is about to be read.
    fn doubts(&self, run: &Run<'_>) -> Result<Vec<String>, DomainError> {
        let is_free = run.options.offline == Offline::Detect;
        let mut doubts: Vec<String> = self
            .undetectable()
            .filter(|_| is_free)
            .into_iter()
            .collect();
        if run.domain.has_saved_memory()? {
            doubts.push(
                "the domain's memory is saved, and is not in the snapshot: its disks are as after \
                 a power cut"
                    .to_owned(),
            );
        }
        Ok(doubts)
    }

    /// Says which files do not show that they were written to.
    fn undetectable(&self) -> Option<String> {
        let devices = self.devices.iter();
        let devices: Vec<String> = devices.map(|path| path.display().to_string()).collect();
        (!devices.is_empty()).then(|| {
            format!(
                "nothing tells whether somebody writes to {} meanwhile, but for the domain's own \
                 state: --offline lock keeps it from starting",
                devices.join(", ")
            )
        })
    }

    /// Takes locks that QEMU respects, and looks that nobody writes yet.
    fn lock(&mut self, plan: &Plan) -> Result<(), DomainError> {
        for image in plan.disks.iter().filter_map(|planned| path(&planned.disk)) {
            let lock = ImageLock::keep_writers_out(image);
            self.locks
                .push(lock.map_err(DomainError::file("lock", image))?);
        }
        Ok(())
    }

    /// Returns whether the domain ran, or the images were changed, since the reading began.
    fn was_started(&self) -> bool {
        let is_free = self.locks.is_empty();
        let runs = is_free && self.domain.state().is_ok_and(|state| state.has_process());
        let is_other = |(path, before): &(PathBuf, FileState)| {
            !FileState::of(path).is_ok_and(|found| found == *before)
        };
        runs || self.seen.iter().any(is_other)
    }

    fn finish(&mut self, published: bool) -> Vec<String> {
        if std::mem::replace(&mut self.ended, true) {
            return Vec::new();
        }
        self.watch = None;
        self.locks.clear();
        if published {
            // Whoever clears up after us must not take the checkpoint away.
            let told = self.folder.update(|record| record.published = true);
            return told
                .err()
                .map(|error| error.to_string())
                .into_iter()
                .collect();
        }
        let runs = self.domain.state().is_ok_and(|state| state.has_process());
        if runs {
            let deleted = self.domain.checkpoint_delete(&self.checkpoint);
            return deleted
                .err()
                .map(|error| error.to_string())
                .into_iter()
                .collect();
        }
        for image in &self.images {
            // It may not have been added.
            drop(qemu_img(&["bitmap", "--remove"], image, &self.checkpoint));
        }
        let forgotten = self.domain.checkpoint_forget(&self.checkpoint);
        forgotten
            .err()
            .map(|error| error.to_string())
            .into_iter()
            .collect()
    }
}

impl Hold for OfflineHold {
    fn check(&self) -> Result<(), String> {
        match self.was_started() {
            true => Err(started(&self.domain).to_string()),
            false => Ok(()),
        }
    }

    fn stopped_by(&self) -> Option<DomainError> {
        let was_seen = self.watch.as_ref().and_then(Watch::trouble).is_some();
        (was_seen || self.was_started()).then(|| started(&self.domain))
    }

    fn end(mut self: Box<Self>, published: bool) -> Vec<String> {
        self.finish(published)
    }
}

impl Drop for OfflineHold {
    fn drop(&mut self) {
        // Nobody is left to be told.
        drop(self.finish(false));
    }
}
