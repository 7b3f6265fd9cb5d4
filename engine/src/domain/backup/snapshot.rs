//! An external libvirt snapshot of a running domain: overlays take what the guest writes, and the
//! images below stand still while they are read. For disks that no backup job can serve, and for
//! those that must be read with the guest's memory.
//!
//! The checkpoint is made just before the libvirt snapshot, while the guest is held still. What is
//! written between the two, and to the overlays until they are committed back, is recorded for the
//! next backup.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::begin::{Moment, at_one_moment_as};
use super::memory::{MEMORY_XML, Memory};
use super::options::Reading;
use super::plan::{Plan, PlannedDisk};
use super::pull::{checkpoint, created, is_about_bitmaps, since};
use super::run::DOMAIN_XML;
use super::scratch::{self, Scratch, ScratchKind};
use super::view::{Hold, Run, View};
use super::watch::{Trouble, Watch, go_on_after_io_error, look_for_pause};
use crate::backup::DiskRequest;
use crate::domain::DomainError;
use crate::domain::freeze::Freeze;
use crate::domain::named::identity_of;
use crate::domain::overlay::{Overlay, Place, describe};
use crate::domain::run_folder::{RunFolder, RunRecord};
use crate::format::Unknown;
use crate::format::domain::{Consistency, Method};
use crate::format::manifest::SourceRecord;
use crate::source::libvirt::xml::{DiskSource, Element};
use crate::source::libvirt::{Domain, DomainState, LibvirtError, Reason, SnapshotKind, Transport};
use crate::source::{self, Format, Limited, Location, Source, SourceError, SourceSpec};

/// Opens a view by a libvirt snapshot of the disks.
pub(super) fn open(run: &Run<'_>, plan: &mut Plan) -> Result<View, DomainError> {
    open_as(run, plan, SnapshotKind::DisksOnly)
}

/// Opens a view by a libvirt snapshot of the disks and the memory.
pub(super) fn open_with_memory(run: &Run<'_>, plan: &mut Plan) -> Result<View, DomainError> {
    open_as(run, plan, SnapshotKind::WithMemory)
}

fn open_as(run: &Run<'_>, plan: &mut Plan, kind: SnapshotKind) -> Result<View, DomainError> {
    if *run.transport != Transport::Local {
        let reason = "images of another host cannot be read: use backup jobs".to_owned();
        return Err(DomainError::Transport { reason });
    }
    let scratch = scratch(run, plan)?;
    let overlays = plan.disks.iter().map(|planned| overlay(planned, &scratch));
    let overlays: Vec<Overlay> = overlays.collect::<Result<_, _>>()?;
    let memory = match kind {
        SnapshotKind::DisksOnly => None,
        SnapshotKind::WithMemory => Some(Memory::plan(run, &scratch)?),
    };
    let record = record(run, &overlays, memory.as_ref());
    // Once there are overlays, the definition names them too.
    let definition = run.domain.inactive_xml()?;
    let xml = snapshot_xml(&overlays, memory.as_ref(), &plan.others());
    let label = run.description.label;
    let mut folder = RunFolder::make(run.run_folder(), run.name.drawn(), label, record)?;
    let freeze = match kind {
        SnapshotKind::DisksOnly => run.options.freeze,
        // A guest that is held still would be so for ever in its saved memory.
        SnapshotKind::WithMemory => Freeze::None,
    };
    let mut made = Made::default();
    let begun = at_one_moment_as(freeze, run, &mut folder, || {
        begin(run, plan, &xml, kind, &mut made)
    });
    // Whatever becomes of it, from here on the overlays are committed back by the hold.
    let mut hold = Box::new(SnapshotHold {
        domain: run.domain.clone(),
        checkpoint: run.name.to_string(),
        memory: memory.as_ref().map(|memory| memory.path.clone()),
        folder,
        overlays,
        made,
        watch: None,
        was_paused: run.state == DomainState::PausedByIoError,
        ended: false,
    });
    let moment = begun?;
    let watch = Watch::start(
        if hold.was_paused {
            look_at_paused
        } else {
            look
        },
        run.domain.clone(),
        scratch,
        run.options.cancel.clone(),
        run.stop.clone(),
    );
    let unwatched = |error| DomainError::GivenUp {
        reason: format!("no thread can be started to watch the domain: {error}"),
    };
    hold.watch = Some(watch.map_err(unwatched)?);
    view(
        run,
        plan,
        Taken {
            moment,
            memory,
            definition,
        },
        hold,
    )
}

fn record(run: &Run<'_>, overlays: &[Overlay], memory: Option<&Memory>) -> RunRecord {
    RunRecord {
        uuid: run.domain.uuid().to_owned(),
        name: run.domain.name().to_owned(),
        pid: std::process::id(),
        checkpoint: Some(run.name.to_string()),
        scratch: memory.iter().map(|memory| memory.path.clone()).collect(),
        overlays: overlays.to_vec(),
        images: Vec::new(),
        frozen: None,
        published: false,
        remote: None,
    }
}

/// What was taken at the moment, beside the disks.
struct Taken {
    moment: Moment,
    memory: Option<Memory>,
    definition: String,
}

fn view(
    run: &Run<'_>,
    plan: &mut Plan,
    taken: Taken,
    hold: Box<SnapshotHold>,
) -> Result<View, DomainError> {
    let Taken {
        moment,
        memory,
        definition,
    } = taken;
    let has_checkpoint = hold.made.checkpoint;
    let disks = plan.disks.iter_mut();
    let disks = disks.map(|planned| request(run, planned, has_checkpoint));
    let disks = disks.collect::<Result<Vec<_>, _>>()?;
    let mut files = moment.extras.files;
    let mut metadata = BTreeMap::from([(DOMAIN_XML.to_owned(), definition)]);
    let mut consistency = moment.consistency;
    if let Some(memory) = memory {
        files.push(memory.request()?);
        metadata.insert(MEMORY_XML.to_owned(), memory.xml);
        consistency = Consistency::Memory;
    }
    let mut warnings = moment.warnings;
    warnings.extend(hold.made.without_checkpoint.clone());
    let name = run.name.to_string();
    Ok(View {
        disks,
        files,
        metadata,
        not_saved: moment.extras.not_saved,
        method: Method::Snapshot,
        consistency,
        checkpoint: has_checkpoint.then(|| (name.clone(), created(run.domain, &name))),
        time: moment.time,
        frozen_ms: moment.frozen_ms,
        warnings,
        hold,
    })
}

fn scratch(run: &Run<'_>, plan: &Plan) -> Result<Scratch, DomainError> {
    let sizes = plan.disks.iter().map(|planned| {
        let size = run.domain.disk_size(&planned.disk.target)?;
        Ok((&planned.disk, size))
    });
    let sizes: Vec<_> = sizes.collect::<Result<_, LibvirtError>>()?;
    Scratch::plan_as(
        ScratchKind::Overlay,
        run.name.drawn(),
        &sizes,
        &run.options.scratch,
        scratch::Place::Here,
    )
}

fn overlay(planned: &PlannedDisk, scratch: &Scratch) -> Result<Overlay, DomainError> {
    let disk = &planned.disk;
    let (base, is_device) = match &disk.source {
        DiskSource::File(path) => (path, false),
        DiskSource::Block(path) => (path, true),
        _ => {
            return Err(unreadable(
                planned,
                "it is neither a file nor a block device",
            ));
        }
    };
    format(planned)?;
    let found = std::fs::metadata(base).map_err(DomainError::file("look at", base))?;
    Ok(Overlay {
        target: disk.target.clone(),
        path: scratch.file(&disk.target),
        base: base.clone(),
        format: disk.format.clone(),
        is_device,
        identity: Some(identity_of(&found)),
    })
}

fn format(planned: &PlannedDisk) -> Result<Format, DomainError> {
    match planned.disk.format.as_str() {
        "qcow2" => Ok(Format::Qcow2),
        "raw" => Ok(Format::Raw),
        other => Err(unreadable(planned, &format!("its format is {other}"))),
    }
}

fn unreadable(planned: &PlannedDisk, why: &str) -> DomainError {
    let target = &planned.disk.target;
    DomainError::GivenUp {
        reason: format!("disk {target} cannot be read below an overlay: {why}"),
    }
}

/// Writes the libvirt snapshot for libvirt.
fn snapshot_xml(overlays: &[Overlay], memory: Option<&Memory>, others: &[String]) -> String {
    let mut disks = Element::new("disks");
    for overlay in overlays {
        let source = Element::new("source");
        let disk = Element::new("disk")
            .attribute("name", &overlay.target)
            .attribute("snapshot", "external")
            .attribute("type", "file");
        let path = overlay.path.to_string_lossy();
        disks = disks.child(
            disk.child(Element::new("driver").attribute("type", "qcow2"))
                .child(source.attribute("file", &path)),
        );
    }
    for target in others {
        let disk = Element::new("disk").attribute("name", target);
        disks = disks.child(disk.attribute("snapshot", "no"));
    }
    let mut root = Element::new("domainsnapshot");
    if let Some(memory) = memory {
        let saved = Element::new("memory").attribute("snapshot", "external");
        root = root.child(saved.attribute("file", &memory.path.to_string_lossy()));
    }
    root.child(disks).to_string()
}

/// What was made.
#[derive(Debug, Default)]
struct Made {
    checkpoint: bool,
    /// Why there is no checkpoint, where there should be one.
    without_checkpoint: Option<String>,
    overlays: bool,
}

fn begin(
    run: &Run<'_>,
    plan: &Plan,
    xml: &str,
    kind: SnapshotKind,
    made: &mut Made,
) -> Result<(), LibvirtError> {
    if let Some(checkpoint) = checkpoint(run, plan) {
        match run.domain.checkpoint_create(&checkpoint) {
            Ok(()) => made.checkpoint = true,
            Err(error)
                if matches!(error.reason, Reason::Unsupported | Reason::NoSupport)
                    || is_about_bitmaps(&error) =>
            {
                made.without_checkpoint =
                    Some(format!("the next backup reads everything: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    let taken = run.domain.snapshot(xml, kind);
    // A daemon that is lost may have done it all the same.
    made.overlays = !matches!(&taken, Err(error) if !error.is_disconnected());
    taken
}

/// Opens one disk's image, which stands still now.
fn request(
    run: &Run<'_>,
    planned: &mut PlannedDisk,
    has_checkpoint: bool,
) -> Result<DiskRequest, DomainError> {
    let mut since = since(run, planned);
    let mut source = image(run, planned, since.clone());
    if let (Err(SourceError::Bitmap { fault, .. }), Some(_)) = (&source, &since) {
        let doubt = format!("the bitmap cannot be used: {fault}");
        if run.options.reading == Reading::Incremental {
            let target = planned.disk.target.clone();
            return Err(DomainError::NotIncremental { target, doubt });
        }
        planned.doubt = Some(doubt);
        since = None;
        source = image(run, planned, None);
    }
    let source = source.map_err(|source| DomainError::Source {
        target: planned.disk.target.clone(),
        source,
    })?;
    let mut identity = planned.identity.clone();
    let has_bitmap = has_checkpoint && planned.can_have_bitmap();
    identity.bitmap = has_bitmap.then(|| run.name.to_string());
    Ok(DiskRequest {
        target: planned.disk.target.clone(),
        source,
        changes_only: since.is_some(),
        record: SourceRecord {
            kind: "libvirt".to_owned(),
            location: identity.path.clone(),
            bitmap: since,
            unknown: Unknown::new(),
        },
        identity: Some(identity),
        is_known: planned.is_known,
        doubt: planned.doubt.clone().filter(|_| planned.is_known),
    })
}

fn image(
    run: &Run<'_>,
    planned: &PlannedDisk,
    bitmap: Option<String>,
) -> Result<Box<dyn Source>, SourceError> {
    let path = match &planned.disk.source {
        DiskSource::File(path) | DiskSource::Block(path) => path.clone(),
        _ => PathBuf::new(),
    };
    let is_qcow2 = planned.disk.format == "qcow2";
    let mut spec = SourceSpec::new(path);
    spec.format = Some(if is_qcow2 { Format::Qcow2 } else { Format::Raw });
    // What the image names, QEMU has opened for the guest already.
    spec.backing = is_qcow2;
    spec.data_file = is_qcow2;
    spec.bitmap = bitmap;
    spec.origin = run.origin(&planned.disk);
    debug_assert!(matches!(spec.location, Location::File(_)));
    let source = source::open(&spec)?;
    Ok(match &run.options.limit {
        Some(limit) => Box::new(Limited::new(source, Arc::clone(limit), run.stop.clone())),
        None => source,
    })
}

/// Looks at the domain once, and calls a pause by an I/O error trouble.
fn look(domain: &Domain) -> Option<Trouble> {
    look_for_pause(domain).or_else(|| look_at_paused(domain))
}

/// Keeps the connection alive. A domain that stops does no harm: what is read stands still all the
/// same.
fn look_at_paused(domain: &Domain) -> Option<Trouble> {
    if domain.state().is_err_and(|error| error.is_disconnected()) {
        drop(domain.connection().revive());
    }
    None
}

/// Overlays that the guest writes to.
struct SnapshotHold {
    domain: Domain,
    checkpoint: String,
    memory: Option<PathBuf>,
    folder: RunFolder,
    overlays: Vec<Overlay>,
    made: Made,
    watch: Option<Watch>,
    /// By an I/O error, before there was a snapshot.
    was_paused: bool,
    ended: bool,
}

impl SnapshotHold {
    fn finish(&mut self, published: bool) -> Vec<String> {
        if std::mem::replace(&mut self.ended, true) {
            return Vec::new();
        }
        self.watch = None;
        let mut faults = Vec::new();
        if published {
            // Whoever clears up after us must not take the checkpoint away.
            drop(self.folder.update(|record| record.published = true));
        }
        for overlay in &self.overlays {
            match overlay.bring_back(&self.domain, self.made.overlays) {
                Ok(left) => faults.extend(left),
                Err(error) => {
                    // The next run, or `recover`, tries again.
                    self.folder.keep();
                    faults.push(error.to_string());
                }
            }
        }
        if let Some(memory) = &self.memory {
            drop(std::fs::remove_file(memory));
        }
        if !self.was_paused {
            faults.extend(go_on_after_io_error(&self.domain));
        }
        if !published
            && self.made.checkpoint
            && let Err(error) = self.domain.checkpoint_delete(&self.checkpoint)
        {
            faults.push(error.to_string());
        }
        faults
    }

    /// Requires that the images still stand still below their overlays.
    fn check_overlays(&self) -> Result<(), DomainError> {
        let xml = match self.domain.xml() {
            // A transient domain that stopped: nobody writes to its images any more.
            Err(error) if error.reason == Reason::NoDomain => return Ok(()),
            xml => xml?,
        };
        let description = describe(&self.domain, &xml)?;
        let moved = |overlay: &&Overlay| overlay.place(&description) == Place::Unused;
        match self.overlays.iter().find(moved) {
            None => Ok(()),
            Some(overlay) => Err(DomainError::GivenUp {
                reason: format!("disk {} was written to while it was read", overlay.target),
            }),
        }
    }
}

impl Hold for SnapshotHold {
    fn check(&self) -> Result<(), String> {
        let checked = match self.check_overlays() {
            Err(DomainError::Libvirt(error)) if error.is_disconnected() => {
                drop(self.domain.connection().revive());
                self.check_overlays()
            }
            checked => checked,
        };
        checked.map_err(|error| error.to_string())
    }

    fn stopped_by(&self) -> Option<DomainError> {
        self.watch.as_ref().and_then(Watch::trouble)
    }

    fn end(mut self: Box<Self>, published: bool) -> Vec<String> {
        self.finish(published)
    }
}

impl Drop for SnapshotHold {
    fn drop(&mut self) {
        // Nobody is left to be told.
        drop(self.finish(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_libvirt_snapshot_names_every_disk() {
        let overlay = Overlay {
            target: "vda".to_owned(),
            path: "/i/.cairn-0-vda.overlay".into(),
            base: "/i/a.qcow2".into(),
            format: "qcow2".to_owned(),
            is_device: false,
            identity: None,
        };
        let memory = Memory {
            path: "/i/.cairn-0.memory".into(),
            xml: String::new(),
        };
        assert_eq!(
            snapshot_xml(&[overlay], Some(&memory), &["sda".to_owned()]),
            "<domainsnapshot><memory snapshot='external' file='/i/.cairn-0.memory'/><disks>\
             <disk name='vda' snapshot='external' type='file'><driver type='qcow2'/>\
             <source file='/i/.cairn-0-vda.overlay'/></disk>\
             <disk name='sda' snapshot='no'/></disks></domainsnapshot>"
        );
    }
}
