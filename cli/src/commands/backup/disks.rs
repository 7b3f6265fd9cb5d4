//! Backups of disks that the user names one by one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use cairn_engine::backup::{
    self as engine, BackupDone, BackupError, BackupOptions, BackupRequest, DiskRequest, Doubt,
    IfWritten, Warning,
};
use cairn_engine::format::Unknown;
use cairn_engine::format::manifest::{SourceRecord, check_name};
use cairn_engine::format::note::Fact;
use cairn_engine::nbd::client::ClientOptions;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{Repository, Snapshot};
use cairn_engine::source::{self, Limited, Location, Origin, SourceError, SourceSpec};

use super::BackupArgs;
use super::args::{IfWrittenArg, ParentArg};
use super::lineage::{self, Kept, Planned};
use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::output::backup::{BackupReport, torn_words};
use crate::output::size;
use crate::session::{self, Snapshots};

/// Runs the command.
pub fn run(args: &BackupArgs, context: &Context) -> Result<Outcome> {
    let vm = args.vm.clone().unwrap_or_default();
    args.check_targets()?;
    check_name(&vm).map_err(|error| CliError::Usage(format!("the VM: {error}")))?;
    let tags = args.tags()?;
    let limit = args.rate_limit()?;
    let specs = args.specs()?;
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let cancel = context.cancel()?;
    let (mut planned, parent) = args.plan(context, &repository, &snapshots, specs)?;
    let of_vm = snapshots.live();
    let of_vm: Vec<&Snapshot> = of_vm
        .filter(|snapshot| snapshot.manifest.vm == vm)
        .collect();
    let mut disks = Vec::with_capacity(planned.len());
    for planned in &mut planned {
        let mut disk = open_disk(context, &cancel, planned, parent)?;
        disk.is_known = (of_vm.iter()).any(|snapshot| snapshot.disk(&planned.target).is_some());
        // All of a new disk is read as a matter of course.
        disk.doubt = disk.doubt.filter(|_| disk.is_known);
        if let Some(doubt) = &disk.doubt {
            context.warn(&format!("disk {} is read whole: {doubt}", planned.target));
        }
        if let Some(limit) = &limit {
            let (limit, cancel) = (Arc::clone(limit), cancel.clone());
            disk.source = Box::new(Limited::new(disk.source, limit, cancel));
        }
        disks.push(disk);
    }
    let request = BackupRequest {
        vm,
        disks,
        parent: parent.cloned(),
        tags,
        ..BackupRequest::default()
    };
    let progress = Arc::new(Progress::default());
    let meter = context.meter("backup", &progress);
    let options = BackupOptions {
        audit_percent: args.audit,
        if_written: match args.if_written {
            IfWrittenArg::Refuse => IfWritten::Refuse,
            IfWrittenArg::Mark => IfWritten::Mark,
        },
        ..BackupOptions::new(context.threads().get(), &progress, &cancel)
    };
    let begun = Instant::now();
    let done = engine::backup(&repository, request, &options);
    drop(meter);
    if let (Err(error), Some(parent)) = (&done, parent) {
        distrust(context, &repository, parent, &mut planned, error);
    }
    let done = done?;
    for disk in &mut planned {
        settle(context, &done, disk);
    }
    let report = BackupReport::of(&done, begun.elapsed());
    said(context, &done);
    print(context, &report)
}

/// Removes the bitmaps that no later backup counts from, now that the snapshot is published.
fn settle(context: &Context, done: &BackupDone, planned: &mut Planned) {
    let Some(kept) = &mut planned.kept else {
        return;
    };
    let mut records = done.manifest.disks.iter();
    let is_torn = records.any(|disk| disk.target == planned.target && disk.torn.is_some());
    let removed = match is_torn {
        // Whoever wrote need not have told the bitmap.
        true => kept.give_up(),
        false => kept.publish(planned.spec.bitmap.as_deref()),
    };
    if let Err(error) = removed {
        context.warn(&format!("bitmaps of before stay in the image: {error}"));
    }
}

/// Sees to it that the next backup reads everything of a disk whose audit failed.
fn distrust(
    context: &Context,
    repository: &Repository,
    parent: &Snapshot,
    planned: &mut [Planned],
    error: &BackupError,
) {
    let BackupError::AuditFailed { target, .. } = error else {
        return;
    };
    let what = target.clone();
    let after = parent.state.last_note;
    if let Err(error) = repository.add_note_after(parent.id, Fact::Mistrusted { what }, after) {
        context.warn(&format!(
            "it cannot be noted that the bitmap of {target} is wrong: do not use it again: {error}"
        ));
    }
    let mut kept = planned.iter_mut().filter(|disk| disk.target == *target);
    let kept = kept.find_map(|disk| disk.kept.as_mut());
    if let Some(Err(error)) = kept.map(Kept::give_up) {
        context.warn(&format!(
            "the bitmaps of {target} cannot be removed: {error}"
        ));
    }
}

/// Says what was not as it should be.
pub(super) fn said(context: &Context, done: &BackupDone) {
    for Warning { target, doubt } in &done.warnings {
        let said = match doubt {
            Doubt::Untold { .. } | Doubt::ParentLacks { .. } => "",
            _ => " was read whole",
        };
        context.warn(&format!("disk {target}{said}: {doubt}"));
    }
    for words in done.manifest.disks.iter().filter_map(torn_words) {
        context.warn(&words);
    }
    if let Err(error) = &done.stored.index {
        context.remark(&format!(
            "the index could not be kept, and will be rebuilt: {error}"
        ));
    }
}

/// Prints what was done. The snapshot is there, whatever becomes of the words about it.
pub(super) fn print(context: &Context, report: &BackupReport) -> Result<Outcome> {
    if let Err(error) = context.report(report) {
        let snapshot = report.snapshot;
        context.warn(&format!("snapshot {snapshot} is published, but {error:#}"));
        return Ok(Outcome::Problems);
    }
    match report.disks.iter().any(|disk| disk.torn.is_some()) {
        true => Ok(Outcome::Problems),
        false => Ok(Outcome::Done),
    }
}

impl BackupArgs {
    fn specs(&self) -> Result<Vec<(String, SourceSpec)>> {
        let mut specs = Vec::with_capacity(self.disks.len());
        for disk in &self.disks {
            let spec = SourceSpec::parse(&disk.source)
                .map_err(|error| CliError::Usage(format!("disk {}: {error}", disk.target)))?;
            let changes = match (&spec.bitmap, spec.delta) {
                (Some(_), _) => Some("a bitmap"),
                (None, true) => Some("a delta"),
                (None, false) => None,
            };
            if spec.is_auto() {
                if let Some(ParentArg::Snapshot(_)) = &self.parent {
                    let text = format!(
                        "disk {}: `bitmap=auto` finds the parent itself: leave --parent out",
                        disk.target
                    );
                    return Err(CliError::Usage(text).into());
                }
            } else if let (Some(changes), None) = (changes, &self.parent) {
                let text = format!(
                    "disk {}: say with --parent which snapshot {changes} counts from",
                    disk.target
                );
                return Err(CliError::Usage(text).into());
            }
            if spec.delta && self.parent == Some(ParentArg::None) {
                let text = format!("disk {}: a delta is nothing without a parent", disk.target);
                return Err(CliError::Usage(text).into());
            }
            let may_be_written = self.if_written == IfWrittenArg::Mark;
            let spec = SourceSpec {
                may_be_written,
                ..spec
            };
            specs.push((disk.target.clone(), spec));
        }
        Ok(specs)
    }

    /// Decides what each disk is read by, and against which snapshot.
    fn plan<'s>(
        &self,
        context: &Context,
        repository: &Repository,
        snapshots: &'s Snapshots,
        specs: Vec<(String, SourceSpec)>,
    ) -> Result<(Vec<Planned>, Option<&'s Snapshot>)> {
        let mut planned = Vec::with_capacity(specs.len());
        let mut has_auto = false;
        for (target, spec) in specs {
            has_auto |= spec.is_auto();
            planned.push(match spec.is_auto() {
                true => lineage::keep(context, repository, target, spec)?,
                false => lineage::by_hand(target, spec),
            });
        }
        if has_auto {
            let parent = match (&self.parent, &self.vm) {
                (None, Some(vm)) => lineage::prove(snapshots, vm, &mut planned),
                _ => None,
            };
            return Ok((planned, parent));
        }
        let parent = self.find_parent(snapshots)?;
        if let (Some(parent), Some(ParentArg::Snapshot(text))) = (parent, &self.parent) {
            let digits = text.rsplit('@').next().unwrap_or(text);
            let is_named = parent.id.to_hex().starts_with(digits);
            for disk in &mut planned {
                lineage::doubt_by_hand(snapshots, repository, parent, is_named, disk)?;
            }
        }
        Ok((planned, parent))
    }

    fn find_parent<'s>(&self, snapshots: &'s Snapshots) -> Result<Option<&'s Snapshot>> {
        let Some(ParentArg::Snapshot(text)) = &self.parent else {
            return Ok(None);
        };
        let parent = snapshots.find(text)?;
        if Some(&parent.manifest.vm) != self.vm.as_ref() {
            let text = format!("{} is of another VM", Snapshots::describe(parent));
            return Err(CliError::Usage(text).into());
        }
        Ok(Some(parent))
    }
}

/// Returns the image that a parent was taken from, where it is one of a chain that a source begins:
/// a chain must have the bitmap down to it. One that was moved since is not known again.
fn origin(parent: &Snapshot, target: &str, spec: &SourceSpec) -> Option<Origin> {
    let record = parent.disk(target)?;
    let path = PathBuf::from(&record.source.location);
    let mut plain = spec.clone();
    plain.bitmap = None;
    let named = source::named_files(&plain).ok()?;
    let is_same = |file: &Path| match (std::fs::metadata(file), std::fs::metadata(&path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    };
    let is_below = named.iter().any(|file| is_same(file));
    is_below.then_some(Origin {
        path,
        inode: record.identity.as_ref().and_then(|identity| identity.inode),
    })
}

/// Returns what is strange about a source, where nobody said that it is so meant.
fn strange(spec: &SourceSpec, size: u64) -> Option<String> {
    if size == 0 {
        return Some("it holds no byte at all".to_owned());
    }
    let path = spec.location.file().filter(|_| spec.format.is_none())?;
    if source::format_of(spec) != Some(source::Format::Raw) {
        return None;
    }
    Some(match source::looks_like(path).ok()?? {
        "qcow2" => "by its name it is raw, and stored byte for byte, but it looks like qcow2: say \
                    `,format=qcow2`, or `,format=raw` if the guest's disk begins so"
            .to_owned(),
        other => format!(
            "by its name it is raw, and stored byte for byte, but it looks like {other}, which is \
             no format that is read here: `qemu-img convert -O qcow2` first, or say `,format=raw` \
             if that is meant"
        ),
    })
}

/// Opens one disk's source.
fn open_disk(
    context: &Context,
    cancel: &Cancel,
    planned: &mut Planned,
    parent: Option<&Snapshot>,
) -> Result<DiskRequest> {
    let (target, spec) = (&planned.target, &mut planned.spec);
    let has_parent = parent.is_some_and(|parent| parent.disk(target).is_some());
    if spec.bitmap.is_some() && !has_parent {
        context.warn(&format!(
            "disk {target}: no parent has it, so the bitmap is left aside and all is read"
        ));
        spec.bitmap = None;
    }
    if spec.bitmap.is_some() {
        spec.origin = parent.and_then(|parent| origin(parent, target, spec));
    }
    let waiting = ClientOptions {
        cancel: cancel.clone(),
        ..ClientOptions::default()
    };
    let opened = match source::open_with(spec, &waiting) {
        Err(error @ SourceError::Bitmap { .. }) => {
            context.warn(&format!(
                "disk {target}: {error}, so it is left aside and all is read"
            ));
            spec.bitmap = None;
            source::open_with(spec, &waiting)
        }
        other => other,
    };
    let opened = opened.with_context(|| format!("cannot open disk {target}"))?;
    if let Some(doubt) = strange(spec, opened.size()) {
        context.warn(&format!("disk {target}: {doubt}"));
    }
    let (kind, location) = match &spec.location {
        Location::Nbd(uri) => ("nbd".to_owned(), uri.to_string()),
        Location::File(path) => {
            let format = source::format_of(spec);
            let kind = format.map_or_else(String::new, |format| format.to_string());
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            (kind, path.display().to_string())
        }
    };
    let record = SourceRecord {
        kind,
        location,
        bitmap: spec.bitmap.clone(),
        unknown: Unknown::new(),
    };
    let changes_only = spec.bitmap.is_some() || spec.delta;
    let how = match (&spec.bitmap, spec.delta) {
        (Some(bitmap), _) => format!("what bitmap {bitmap} marks"),
        (None, true) => "what the delta has allocated".to_owned(),
        (None, false) => "everything allocated".to_owned(),
    };
    context.detail(&format!(
        "disk {target}: {} of {} in {}: reading {how}",
        size::human(opened.size()),
        record.kind,
        record.location
    ));
    Ok(DiskRequest {
        changes_only,
        identity: planned.identity.clone(),
        doubt: planned.doubt.clone(),
        ..DiskRequest::new(target.clone(), opened, record)
    })
}
