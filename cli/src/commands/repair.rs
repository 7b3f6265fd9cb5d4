//! `cairn repair`: heals what is damaged, from wherever it is still whole.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cairn_engine::id::PackId;
use cairn_engine::progress::Progress;
use cairn_engine::repair::{
    DiskDonor, Donor, RepairOptions, RepositoryDonor, rebuild_index, repair,
};
use cairn_engine::repository::Access;
use cairn_engine::source::{self, SourceSpec};

use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::output::repair::{IndexRepaired, Repaired, SettingsRepaired};
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn repair                     heal what another pack has; name what is lost
  cairn repair --from /mnt/copy    fetch what is lost from a second repository
  cairn repair --from-disk vda=/vm/web1.qcow2
                                   fetch it from the disk, as far as that is unchanged
  cairn repair --from-disk web1@latest:vda=/vm/old.raw
  cairn repair --pack 9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab
  cairn repair --config            put `config` and key slots back from this client's copies
  cairn repair --index             build the index anew; nothing else

Where the repository has parity, packs are rebuilt from it first, and missing parity is made.
Everything is compared with its id before it is stored. Damaged packs are moved to `damaged/`, never
deleted. What stays lost is stored anew by the next full backup that sees it. Exits with 13 if
something stays lost, and with 11 while backups are at work.";

/// Heal what is damaged
///
/// Reads all packs, moves what is whole out of damaged ones, and fetches what is lost from
/// wherever it can still be had.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RepairArgs {
    /// Build the index anew, and do nothing else
    #[arg(long, conflicts_with_all = ["packs", "from", "from_disks"])]
    pub index: bool,

    /// Put `config` and key slots that are damaged back from this client's copies; nothing else
    #[arg(long, conflicts_with_all = ["index", "packs", "from", "from_disks"])]
    pub config: bool,

    /// Read this pack only; can be given more than once [default: all]
    #[arg(long = "pack", value_name = "ID")]
    pub packs: Vec<PackId>,

    /// Fetch what is lost from the repository in this folder
    #[arg(long, value_name = "REPO")]
    pub from: Vec<PathBuf>,

    /// Read the passphrase of that repository from the first line of FILE [default: as of this]
    #[arg(long, value_name = "FILE", requires = "from")]
    pub from_password_file: Option<PathBuf>,

    /// Fetch what is lost from a disk that snapshots were made from
    #[arg(long = "from-disk", value_name = "[SNAPSHOT:]TARGET=SOURCE")]
    pub from_disks: Vec<OsString>,
}

/// Runs the command.
pub fn run(args: &RepairArgs, context: &Context) -> Result<Outcome> {
    if args.config {
        return put_back(context);
    }
    let repository = session::open(context)?;
    if args.index {
        let rebuilt_index = rebuild_index(&repository)?;
        context.report(&IndexRepaired { rebuilt_index })?;
        return Ok(match rebuilt_index {
            true => Outcome::Done,
            false => Outcome::Locked,
        });
    }
    let mut donors = Vec::new();
    if !args.from_disks.is_empty() {
        let snapshots = Snapshots::read(context, &repository)?;
        for disk in &args.from_disks {
            donors.push(disk_donor(&snapshots, disk)?);
        }
    }
    for folder in &args.from {
        donors.push(repository_donor(args, context, folder)?);
    }
    let cancel = context.cancel()?;
    let progress = Arc::new(Progress::default());
    let meter = context.meter("repair", &progress);
    let options = RepairOptions {
        packs: (!args.packs.is_empty()).then(|| args.packs.clone()),
        donors: &donors,
        threads: context.threads().get(),
        progress: &progress,
        cancel: &cancel,
    };
    let report = repair(&repository, &options)?;
    drop(meter);
    let outcome = match (report.waiting_for.is_empty(), report.remaining.is_empty()) {
        (false, _) => Outcome::Locked,
        (true, false) => Outcome::Damage,
        (true, true) => Outcome::Done,
    };
    let report = Repaired::of(report);
    match outcome {
        Outcome::Done => context.report(&report)?,
        _ => context.print(&report)?,
    }
    Ok(outcome)
}

fn put_back(context: &Context) -> Result<Outcome> {
    let done = session::put_back(context)?;
    context.report(&SettingsRepaired {
        config: done.config,
        keys: done.keys.iter().map(|id| id.to_hex()).collect(),
    })?;
    Ok(Outcome::Done)
}

/// Takes `[SNAPSHOT:]TARGET=SOURCE` apart.
fn parse_disk(text: &OsStr) -> Result<(Option<String>, String, OsString)> {
    let wanted = || CliError::Usage("--from-disk wants [SNAPSHOT:]TARGET=SOURCE".to_owned());
    let bytes = text.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=');
    let at = at.ok_or_else(wanted)?;
    let (left, right) = (&bytes[..at], &bytes[at + 1..]);
    let left = std::str::from_utf8(left).map_err(|_| wanted())?;
    // A snapshot's time holds colons, too: the target comes after the last.
    let (snapshot, target) = match left.rsplit_once(':') {
        Some((snapshot, target)) => (Some(snapshot.to_owned()), target),
        None => (None, left),
    };
    if target.is_empty() || right.is_empty() || snapshot.as_deref() == Some("") {
        return Err(wanted().into());
    }
    let source = OsString::from_vec(right.to_vec());
    Ok((snapshot, target.to_owned(), source))
}

fn disk_donor(snapshots: &Snapshots, text: &OsStr) -> Result<Donor> {
    let (snapshot, target, source) = parse_disk(text)?;
    let spec = SourceSpec::parse(&source)
        .with_context(|| format!("cannot understand {}", source.display()))?;
    let snapshot = snapshot.map(|text| snapshots.find(&text)).transpose()?;
    let opened = source::open(&spec);
    let source = opened.with_context(|| format!("cannot open {}", source.display()))?;
    Ok(Donor::Disk(DiskDonor {
        snapshot: snapshot.map(|snapshot| snapshot.id),
        target,
        source,
    }))
}

fn repository_donor(args: &RepairArgs, context: &Context, folder: &Path) -> Result<Donor> {
    let password_file = args.from_password_file.as_deref();
    let other = session::open_other(context, folder, password_file)
        .with_context(|| format!("cannot open {}", folder.display()))?;
    let list = Snapshots::read(context, &other)?.list;
    let pins = list.snapshots.iter().map(|snapshot| snapshot.id).collect();
    let contents = session::contents(context, &other, Access::Read(pins), "repair")?;
    let donor = RepositoryDonor::new(Arc::new(contents), list.snapshots);
    Ok(Donor::Repository(donor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_a_target_and_may_have_a_snapshot() {
        let parsed = |text: &str| parse_disk(OsStr::new(text)).ok();
        let some = |text: &str| Some(text.to_owned());
        let to = |snapshot, target: &str, source: &str| {
            Some((snapshot, target.to_owned(), OsString::from(source)))
        };
        assert_eq!(parsed("vda=/a.raw"), to(None, "vda", "/a.raw"));
        assert_eq!(parsed("web1:vda=/a=b"), to(some("web1"), "vda", "/a=b"));
        let at = "web1@2026-11-20T08:30:vda=a.qcow2";
        assert_eq!(
            parsed(at),
            to(some("web1@2026-11-20T08:30"), "vda", "a.qcow2")
        );
        for wrong in ["vda", "=a", "vda=", ":vda=a", "web1:=a"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
