//! Backups of disks that the user names one by one.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use cairn_engine::backup::{
    self as engine, BackupDone, BackupOptions, BackupRequest, DiskRequest, Doubt, Warning,
};
use cairn_engine::format::Unknown;
use cairn_engine::format::manifest::{SourceRecord, check_name};
use cairn_engine::nbd::client::ClientOptions;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::Snapshot;
use cairn_engine::source::{self, Limited, Location, SourceError, SourceSpec};

use super::BackupArgs;
use super::args::ParentArg;
use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::output::backup::BackupReport;
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
    let parent = args.find_parent(&snapshots)?;
    let of_vm = snapshots.live();
    let of_vm: Vec<&Snapshot> = of_vm
        .filter(|snapshot| snapshot.manifest.vm == vm)
        .collect();
    let cancel = context.cancel()?;
    let mut disks = Vec::with_capacity(specs.len());
    for (target, spec) in specs {
        let is_known = of_vm
            .iter()
            .any(|snapshot| snapshot.disk(&target).is_some());
        let mut disk = open_disk(context, &cancel, target, spec, parent)?;
        disk.is_known = is_known;
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
        ..BackupOptions::new(context.threads().get(), &progress, &cancel)
    };
    let done = engine::backup(&repository, request, &options);
    drop(meter);
    let done = done?;
    let report = BackupReport::of(&done);
    said(context, &done);
    print(context, &report)
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
    if let Err(error) = &done.stored.index {
        context.remark(&format!(
            "the index could not be kept, and will be rebuilt: {error}"
        ));
    }
}

/// Prints what was done. The snapshot is there, whatever becomes of the words about it.
pub(super) fn print(context: &Context, report: &BackupReport) -> Result<Outcome> {
    if let Err(error) = context.print(report) {
        let snapshot = report.snapshot;
        context.warn(&format!("snapshot {snapshot} is published, but {error:#}"));
        return Ok(Outcome::Problems);
    }
    Ok(Outcome::Done)
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
            if let (Some(changes), None) = (changes, &self.parent) {
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
            specs.push((disk.target.clone(), spec));
        }
        Ok(specs)
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

/// Opens one disk's source, and decides whether it is read by its changes.
fn open_disk(
    context: &Context,
    cancel: &Cancel,
    target: String,
    mut spec: SourceSpec,
    parent: Option<&Snapshot>,
) -> Result<DiskRequest> {
    let has_parent = parent.is_some_and(|parent| parent.disk(&target).is_some());
    if spec.bitmap.is_some() && !has_parent {
        context.warn(&format!(
            "disk {target}: no parent has it, so the bitmap is left aside and all is read"
        ));
        spec.bitmap = None;
    }
    let waiting = ClientOptions {
        cancel: cancel.clone(),
        ..ClientOptions::default()
    };
    let opened = match source::open_with(&spec, &waiting) {
        Err(SourceError::Bitmap { name, fault, .. }) => {
            context.warn(&format!(
                "disk {target}: bitmap `{name}` {fault}, so it is left aside and all is read"
            ));
            spec.bitmap = None;
            source::open_with(&spec, &waiting)
        }
        other => other,
    };
    let opened = opened.with_context(|| format!("cannot open disk {target}"))?;
    let (kind, location) = match &spec.location {
        Location::Nbd(uri) => ("nbd".to_owned(), uri.to_string()),
        Location::File(path) => {
            let format = source::format_of(&spec);
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
        ..DiskRequest::new(target, opened, record)
    })
}
