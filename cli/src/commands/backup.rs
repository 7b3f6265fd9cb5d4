//! `cairn backup`: a new snapshot of a VM.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cairn_engine::backup::{
    self as engine, BackupOptions, BackupRequest, DiskRequest, Doubt, Warning,
};
use cairn_engine::format::Unknown;
use cairn_engine::format::manifest::{SourceRecord, check_name};
use cairn_engine::nbd::client::ClientOptions;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::Snapshot;
use cairn_engine::source::{self, Location, SourceError, SourceSpec};

use crate::context::Context;
use crate::exit::CliError;
use crate::exit::Outcome;
use crate::output::backup::{BackupReport, DiskReport};
use crate::output::size;
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
SOURCE is a path or an NBD URI, with options after commas:
  format=raw|qcow2    the image's format, where its extension does not tell
  bitmap=NAME         read only what this dirty bitmap of a qcow2 says has changed
  delta               what a qcow2 has not allocated is unchanged from the parent
  snapshot=NAME       read an internal snapshot of a qcow2, by name or id
  backing=allow       follow the backing file that a qcow2 names
  backing-format=raw|qcow2
                      its format, where the qcow2 does not tell
  data-file=allow     follow the external data file that a qcow2 names
  bitmap=CONTEXT      of an NBD server: read only what this dirty bitmap, such as
                      qemu:dirty-bitmap:NAME, says has changed
A comma that belongs to a path or name is written twice. NBD URIs are nbd://HOST[:PORT]/EXPORT and
nbd+unix:///EXPORT?socket=PATH; over TLS nbds and nbds+unix, with tls-certificates=DIR after ? or &.

Examples:
  cairn backup web1 --disk vda=/vm/web1.qcow2
  cairn backup web1 --disk vda=/vm/web1.raw --disk vdb=/dev/vg0/web1-data --tag job=nightly
  cairn backup web1 --disk vda=/vm/web1.qcow2,bitmap=b0 --parent web1@latest
  cairn backup web1 --disk 'vda=nbd+unix:///vda?socket=/run/web1.nbd'
  cairn backup web1 --disk vda=/vm/increment.4,format=qcow2,delta --parent web1@latest

A bitmap counts from the moment it was added or cleared: that must be when the parent was taken,
while nobody had the image open. With `qemu-img bitmap --add IMAGE NAME` just before the first
backup, and `--clear` right after each later one, it does.";

/// Back up a virtual machine
///
/// Only what the repository does not have yet is stored. With a parent and a bitmap, or a delta,
/// only what has changed is read. Every snapshot is complete in itself all the same.
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
pub struct BackupArgs {
    /// Name of the virtual machine
    pub vm: String,

    /// Disk to back up: its name in the VM, and where it is (can be given several times)
    #[arg(long = "disk", value_name = "TARGET=SOURCE", required = true)]
    #[arg(value_parser = disk_parser())]
    pub disks: Vec<DiskArg>,

    /// Snapshot that bitmaps and deltas count from; `none` reads everything
    #[arg(long, value_name = "SNAPSHOT|none")]
    pub parent: Option<ParentArg>,

    /// Note to keep with the snapshot (can be given several times)
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub tags: Vec<Tag>,
}

/// One `--disk`: the source still as text, which need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskArg {
    /// The disk's name in the VM.
    pub target: String,
    /// Path and options.
    pub source: OsString,
}

fn disk_parser() -> impl clap::builder::TypedValueParser<Value = DiskArg> {
    use clap::builder::{OsStringValueParser, TypedValueParser};
    OsStringValueParser::new().try_map(|text| parse_disk(&text))
}

fn parse_disk(text: &OsStr) -> Result<DiskArg, CliError> {
    let refused = |reason: &str| CliError::Usage(reason.to_owned());
    let mut halves = text.as_bytes().splitn(2, |byte| *byte == b'=');
    let target = halves
        .next()
        .and_then(|target| std::str::from_utf8(target).ok());
    let target = target.filter(|target| !target.is_empty());
    let target =
        target.ok_or_else(|| refused("TARGET=SOURCE is wanted, such as vda=/vm/a.qcow2"))?;
    let source = halves.next().filter(|source| !source.is_empty());
    let source =
        source.ok_or_else(|| refused("TARGET=SOURCE is wanted, such as vda=/vm/a.qcow2"))?;
    if target.contains(['/', ',', ':', '@']) {
        return Err(refused("the name of a disk is one like `vda`, not a path"));
    }
    let source = OsString::from_vec(source.to_vec());
    Ok(DiskArg {
        target: target.to_owned(),
        source,
    })
}

/// The value of `--parent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParentArg {
    /// Compute against nothing.
    None,
    /// A snapshot, as it was typed.
    Snapshot(String),
}

impl FromStr for ParentArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "none" => Self::None,
            _ => Self::Snapshot(text.to_owned()),
        })
    }
}

/// One `--tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    key: String,
    value: String,
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let halves = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = halves.ok_or("KEY=VALUE is wanted")?;
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl BackupArgs {
    /// Returns the tags by their keys.
    pub fn tags(&self) -> Result<BTreeMap<String, String>, CliError> {
        let mut tags = BTreeMap::new();
        for Tag { key, value } in &self.tags {
            if tags.insert(key.clone(), value.clone()).is_some() {
                return Err(CliError::Usage(format!("tag `{key}` is given twice")));
            }
        }
        Ok(tags)
    }

    /// Refuses two disks of one name.
    pub fn check_targets(&self) -> Result<(), CliError> {
        let mut seen = std::collections::BTreeSet::new();
        match self.disks.iter().find(|disk| !seen.insert(&disk.target)) {
            None => Ok(()),
            Some(disk) => Err(CliError::Usage(format!(
                "disk `{}` is given twice",
                disk.target
            ))),
        }
    }
}

/// Runs the command.
pub fn run(args: &BackupArgs, context: &Context) -> Result<Outcome> {
    args.check_targets()?;
    check_name(&args.vm).map_err(|error| CliError::Usage(format!("the VM: {error}")))?;
    let tags = args.tags()?;
    let specs = args.specs()?;
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let parent = args.find_parent(&snapshots)?;
    let is_known_vm = snapshots
        .live()
        .any(|snapshot| snapshot.manifest.vm == args.vm);
    let cancel = context.cancel()?;
    let mut disks = Vec::with_capacity(specs.len());
    for (target, spec) in specs {
        disks.push(open_disk(context, &cancel, target, spec, parent)?);
    }
    let request = BackupRequest {
        vm: args.vm.clone(),
        disks,
        parent: parent.cloned(),
        is_known_vm,
        tags,
        ..BackupRequest::default()
    };
    let progress = Arc::new(Progress::default());
    let meter = context.meter("backup", &progress);
    let options = BackupOptions::new(context.threads().get(), &progress, &cancel);
    let done = engine::backup(&repository, request, &options);
    drop(meter);
    let done = done?;
    for Warning { target, doubt } in &done.warnings {
        let said = match doubt {
            Doubt::Untold { .. } => "",
            _ => " was read whole",
        };
        context.warn(&format!("disk {target}{said}: {doubt}"));
    }
    if let Err(error) = &done.stored.index {
        context.remark(&format!(
            "the index could not be kept, and will be rebuilt: {error}"
        ));
    }
    let report = BackupReport {
        snapshot: done.snapshot,
        vm: done.manifest.vm,
        parent: done.manifest.parent,
        disks: done.manifest.disks.iter().map(DiskReport::of).collect(),
        warnings: done
            .warnings
            .iter()
            .map(|w| format!("disk {}: {}", w.target, w.doubt))
            .collect(),
    };
    // The snapshot is there, whatever becomes of the words about it.
    if let Err(error) = context.print(&report) {
        context.warn(&format!(
            "snapshot {} is published, but {error:#}",
            done.snapshot
        ));
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
        if parent.manifest.vm != self.vm {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BackupArgs,
    }

    fn parse(line: &[&str]) -> Result<BackupArgs, clap::Error> {
        let line = ["backup"].into_iter().chain(line.iter().copied());
        Line::try_parse_from(line).map(|line| line.args)
    }

    #[test]
    fn disks_are_target_and_source() {
        let args = parse(&[
            "web1",
            "--disk",
            "vda=/a=b.raw,format=raw",
            "--disk",
            "vdb=b",
        ])
        .expect("the line is valid");
        let sources: Vec<_> = args.disks.iter().map(|disk| disk.source.clone()).collect();
        assert_eq!(sources, ["/a=b.raw,format=raw", "b"]);
        assert_eq!(args.disks[1].target, "vdb");
        assert!(args.check_targets().is_ok());
        for disk in ["vda", "=a", "vda=", "a/b=c"] {
            assert!(parse(&["web1", "--disk", disk]).is_err(), "{disk}");
        }
        assert!(parse(&["web1"]).is_err(), "a disk is needed");
        let twice = parse(&["web1", "--disk", "vda=a", "--disk", "vda=b"]).expect("parses");
        assert!(twice.check_targets().is_err());
    }

    #[test]
    fn parents_and_tags_are_read() {
        let line = [
            "web1", "--disk", "vda=a", "--parent", "none", "--tag", "a=b=c", "--tag", "d=",
        ];
        let args = parse(&line).expect("the line is valid");
        assert_eq!(args.parent, Some(ParentArg::None));
        let tags = args.tags().expect("the keys differ");
        assert_eq!(
            tags.into_iter().collect::<Vec<_>>(),
            [
                ("a".to_owned(), "b=c".to_owned()),
                ("d".to_owned(), String::new()),
            ]
        );
        let twice = parse(&["w", "--disk", "a=b", "--tag", "a=b", "--tag", "a=c"]).expect("parses");
        assert!(twice.tags().is_err());
        assert!(parse(&["w", "--disk", "a=b", "--tag", "=b"]).is_err());
    }
}
