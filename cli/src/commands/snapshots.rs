//! `cairn snapshots`: what there is to restore.

use anyhow::Result;

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::snapshots::{SnapshotReport, SnapshotsReport};
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn snapshots
  cairn snapshots web1
  cairn snapshots --json | jq -r '.[].id'";

/// List the snapshots, oldest first
///
/// ADDED is what storing a snapshot took at the time it was made. PROVED tells how `cairn prove`
/// found it last.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SnapshotsArgs {
    /// Only those of this virtual machine
    pub vm: Option<String>,
}

/// Runs the command.
pub fn run(args: &SnapshotsArgs, context: &Context) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let wanted = snapshots.live().filter(|snapshot| {
        args.vm
            .as_ref()
            .is_none_or(|vm| *vm == snapshot.manifest.vm)
    });
    context.print(&SnapshotsReport(wanted.map(SnapshotReport::of).collect()))?;
    Ok(match snapshots.list.unreadable.is_empty() {
        true => Outcome::Done,
        false => Outcome::Damage,
    })
}
