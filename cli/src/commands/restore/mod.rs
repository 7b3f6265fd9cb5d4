//! `cairn restore`: a snapshot as disks, as a domain, or back onto the domain that it is of.

mod disks;
#[cfg(feature = "libvirt")]
mod domain;
#[cfg(feature = "libvirt")]
mod in_place;
#[cfg(feature = "libvirt")]
mod memory;
mod salvage;
#[cfg(feature = "libvirt")]
mod users;
mod work;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use clap_complete::engine::ArgValueCompleter;
use work::Work;

use crate::complete;
use crate::context::Context;
use crate::exit::Outcome;
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn restore web1 --to /vm/restored/
  cairn restore web1@2026-11-20 --disk vda --to /vm/web1.qcow2 --format qcow2
  cairn restore 3f2a9c --disk vda --to /dev/vg0/web1 --force
  cairn restore web1 --to /vm/restored/ --salvage
  cairn restore web1 --define web1-copy --new-ids --no-ip --start
  cairn restore web1 --in-place
  cairn restore web1 --memory --dir /vm/restored

PATH is a file, a block device, or a folder, which gets every disk as TARGET.FORMAT. A path that
ends in `/` is a folder that is made where needed. A file appears when it is complete. A block
device is overwritten in place, and only with --force: until the command ends well it holds half a
disk.

--define makes a libvirt domain of the snapshot. Its disks are NAME-TARGET.FORMAT in a folder, and
what of its XML belongs to another host is left out and named. --in-place sets the disks of the
domain that the snapshot was made of back, and writes only where they differ.";

/// Restore a snapshot: to disks, to a domain, or in place
///
/// Every byte is checked before it is written. What was a hole stays a hole.
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
#[command(group = clap::ArgGroup::new("where").required(true))]
pub struct RestoreArgs {
    /// Snapshot to restore
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    pub snapshot: String,

    /// Disk to restore [default: all of them]
    #[arg(long, value_name = "TARGET")]
    pub disk: Option<String>,

    /// Where to restore to
    #[arg(long, value_name = "PATH", group = "where")]
    #[cfg_attr(feature = "libvirt", arg(conflicts_with = "connect"))]
    pub to: Option<PathBuf>,

    /// Format of the files [default: what the extension tells, else raw; qcow2 with --define]
    #[arg(long, value_enum)]
    pub format: Option<ImageFormat>,

    /// Overwrite what is there
    #[arg(long)]
    pub force: bool,

    /// Where something is lost: write all that is whole, and name what is not
    ///
    /// A disk of which bytes are lost is written as PATH.incomplete, with zeros for them.
    /// PATH.incomplete.map says where they are, in the form of GNU ddrescue's map files, and
    /// PATH.incomplete.files which files of the guest they belong to; in a folder, that is
    /// incomplete.files. The exit code is 3 then. A disk of which nothing is lost is restored as
    /// without this option.
    #[arg(long, requires = "to")]
    #[cfg_attr(feature = "libvirt", arg(conflicts_with_all = ["define", "in_place", "memory"]))]
    pub salvage: bool,

    #[cfg(feature = "libvirt")]
    #[command(flatten)]
    pub domain: domain::DomainArgs,
}

/// A format to restore to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    /// The disk's bytes, sparse
    Raw,
    /// QEMU's format
    Qcow2,
}

/// Runs the command.
pub fn run(args: &RestoreArgs, context: &Context) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let snapshot = snapshots.find(&args.snapshot)?;
    if let Some(to) = &args.to {
        let disks = disks::DisksArgs {
            disk: args.disk.as_deref(),
            to,
            format: args.format,
            force: args.force,
            salvage: args.salvage,
        };
        return disks::run(&disks, &repository, snapshot, context);
    }
    #[cfg(feature = "libvirt")]
    if args.domain.in_place {
        return in_place::run(args, &repository, snapshot, context);
    }
    #[cfg(feature = "libvirt")]
    if args.domain.define.is_some() {
        return domain::run(args, &repository, snapshot, context);
    }
    #[cfg(feature = "libvirt")]
    if args.domain.memory {
        return memory::run(args, &repository, snapshot, context);
    }
    unreachable!("the group of arguments is required")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RestoreArgs,
    }

    fn is_fine(line: &str) -> bool {
        Line::try_parse_from(["restore", "web1"].into_iter().chain(line.split(' '))).is_ok()
    }

    #[test]
    fn a_snapshot_goes_to_one_place() {
        assert!(is_fine("--to a.qcow2"));
        assert!(!is_fine("--force"));
        assert!(is_fine("--to a --salvage"));
        assert!(!is_fine("--salvage"));
    }

    #[cfg(feature = "libvirt")]
    #[test]
    fn an_instant_restore_keeps_its_sockets_where_it_is_told() {
        let line = "restore web1 --define b --instant --run-dir /x/run --state-dir /x/state";
        let line = Line::try_parse_from(line.split(' ')).expect("the line is valid");
        let domain = &line.args.domain;
        let run = domain.connect.run_folder().expect("it is told");
        assert_eq!(run, std::path::Path::new("/x/run"));
        assert_eq!(domain.places().run().expect("it is told"), run);
        let told = domain.places().arguments().expect("it is told");
        assert_eq!(told, ["--state-dir", "/x/state", "--run-dir", "/x/run"]);
    }

    #[cfg(feature = "libvirt")]
    #[test]
    fn what_makes_a_domain_excludes_the_rest() {
        assert!(is_fine("--define b --new-ids --no-ip --dir /x --mode 0660"));
        assert!(is_fine("--in-place --disk vda"));
        assert!(is_fine("--memory --dir /x --force --mode 0660"));
        for wrong in [
            "--to a --define b",
            "--to a --in-place",
            "--define b --in-place",
            "--to a --new-ids",
            "--to a --connect qemu:///system",
            "--in-place --start",
            "--memory --start",
            "--memory --new-ids",
            "--memory --define b",
            "--in-place --format raw",
            "--in-place --salvage",
            "--define b --salvage",
            "--define b --dir /x --pool p",
            "--define b --no-ip --no-nic",
            "--define b --mode 8",
            "--define b --disk vda",
        ] {
            assert!(!is_fine(wrong), "{wrong}");
        }
    }
}
