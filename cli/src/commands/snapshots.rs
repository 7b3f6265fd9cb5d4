//! `cairn snapshots`: what there is to restore.

use anyhow::Result;
use cairn_engine::repository::{Snapshot, UnreadableSnapshot};
use cairn_engine::retention::Grace;
use clap_complete::engine::ArgValueCompleter;

use crate::complete;
use crate::context::Context;
use crate::exit::Outcome;
use crate::output::resting::{RestingReport, RestingSnapshot};
use crate::output::snapshots::{SnapshotReport, SnapshotsReport};
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn snapshots
  cairn snapshots web1
  cairn snapshots --json | jq -r '.[].id'
  cairn snapshots --forgotten";

/// List the snapshots, oldest first
///
/// ADDED is what storing a snapshot took at the time it was made. PROVED tells how `cairn prove`
/// found it last.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SnapshotsArgs {
    /// Only those of this virtual machine
    #[arg(add = ArgValueCompleter::new(complete::vms))]
    pub vm: Option<String>,

    /// Those that are forgotten and still there, with until when they rest
    ///
    /// `cairn undelete` brings them back. Of those that were protected or pinned after all no end
    /// is said: a collection leaves them alone.
    #[arg(long)]
    pub forgotten: bool,
}

/// Runs the command.
pub fn run(args: &SnapshotsArgs, context: &Context) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let is_wanted = |snapshot: &&Snapshot| {
        let vm = args.vm.as_ref();
        vm.is_none_or(|vm| *vm == snapshot.manifest.vm)
    };
    if args.forgotten {
        let grace = Grace::of(repository.config());
        let resting = snapshots.forgotten().filter(is_wanted);
        let resting = resting.map(|snapshot| RestingSnapshot::of(snapshot, grace));
        context.print(&RestingReport(resting.collect()))?;
    } else {
        let listed = snapshots.live().filter(is_wanted);
        context.print(&SnapshotsReport(listed.map(SnapshotReport::of).collect()))?;
    }
    let unreadable = &snapshots.list.unreadable;
    let is_newer = |snapshot: &UnreadableSnapshot| snapshot.error.is_unsupported();
    Ok(match unreadable.is_empty() {
        true => Outcome::Done,
        false if unreadable.iter().all(is_newer) => Outcome::Unsupported,
        false if unreadable.iter().any(|it| it.error.is_damage()) => Outcome::Damage,
        false => Outcome::Failed,
    })
}
