//! `cairn protect` and `cairn unprotect`: which snapshots nobody may forget.

use anyhow::Result;
use cairn_engine::id::SnapshotId;
use cairn_engine::repository::{Repository, RepositoryError, Snapshot};
use cairn_engine::retention;
use clap_complete::engine::ArgValueCompleter;

use crate::complete;
use crate::context::Context;
use crate::exit::Outcome;
use crate::output::marks::MarkedReport;
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn protect web1@2026-11-20
  cairn protect 3f2a9c 81bc02";

const UNPROTECT_EXAMPLES: &str = "\
Examples:
  cairn unprotect web1@2026-11-20";

/// Protect snapshots from being forgotten
///
/// `forget` refuses them, and `prune` keeps them, until they are unprotected.
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
pub struct ProtectArgs {
    /// Snapshots to protect
    #[arg(required = true, value_name = "SNAPSHOT")]
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    pub snapshots: Vec<String>,
}

/// End the protection of snapshots
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(UNPROTECT_EXAMPLES))]
pub struct UnprotectArgs {
    /// Snapshots that may be forgotten again
    #[arg(required = true, value_name = "SNAPSHOT")]
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    pub snapshots: Vec<String>,
}

/// Runs `protect`.
pub fn protect(args: &ProtectArgs, context: &Context) -> Result<Outcome> {
    mark(&args.snapshots, context, "protected", retention::protect)
}

/// Runs `unprotect`.
pub fn unprotect(args: &UnprotectArgs, context: &Context) -> Result<Outcome> {
    let names = &args.snapshots;
    mark(names, context, "no longer protected", retention::unprotect)
}

fn mark(
    names: &[String],
    context: &Context,
    words: &'static str,
    add: fn(&Repository, &[SnapshotId]) -> Result<(), RepositoryError>,
) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let found = names.iter().map(|text| snapshots.find(text));
    let plan: Vec<&Snapshot> = found.collect::<Result<_>>()?;
    let ids: Vec<_> = plan.iter().map(|snapshot| snapshot.id).collect();
    add(&repository, &ids)?;
    context.report(&MarkedReport::of(words, &plan))?;
    Ok(Outcome::Done)
}
