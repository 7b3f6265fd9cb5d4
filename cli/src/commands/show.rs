//! `cairn show`: everything about one snapshot.

use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;

use crate::complete;
use crate::context::Context;
use crate::exit::Outcome;
use crate::output::snapshots::ShowReport;
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn show web1
  cairn show web1@2026-11-20T08:30
  cairn show 3f2a9c --json";

/// Show everything about one snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
pub struct ShowArgs {
    /// Snapshot to show
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    pub snapshot: String,
}

/// Runs the command.
pub fn run(args: &ShowArgs, context: &Context) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let snapshot = snapshots.find(&args.snapshot)?;
    context.print(&ShowReport::of(snapshot))?;
    Ok(Outcome::Done)
}
