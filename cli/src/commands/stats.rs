//! `cairn stats`: what deduplication and compression gain.

use anyhow::Result;
use cairn_engine::repository::Access;
use cairn_engine::stats;

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::stats::StatsReport;
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn stats
  cairn stats --json | jq .dedup_ratio";

/// Show what the repository holds, and what deduplication and compression gain
///
/// "Data" counts every snapshot in full, without holes. "Unique" counts each chunk once. "Stored"
/// is what the repository takes on disk, without its index, which can be rebuilt.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StatsArgs {}

/// Runs the command.
pub fn run(_args: &StatsArgs, context: &Context) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let contents = session::contents(context, &repository, Access::Read(Vec::new()), "stats")?;
    let stats = stats::stats(&contents, &snapshots.list, context.threads().get())?;
    context.print(&StatsReport::of(&stats))?;
    Ok(Outcome::Done)
}
