//! `cairn undelete`: brings forgotten snapshots back.

use anyhow::Result;
use cairn_engine::repository::Snapshot;
use cairn_engine::retention;

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::marks::MarkedReport;
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn snapshots --forgotten
  cairn undelete 3f2a9c
  cairn undelete web1@2026-11-01 web1@2026-11-02";

/// Bring forgotten snapshots back
///
/// As long as a collection has not taken them: `cairn snapshots --forgotten` lists those that rest.
/// VM means its latest forgotten snapshot here.
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
pub struct UndeleteArgs {
    /// Forgotten snapshots to bring back
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
}

/// Runs the command.
pub fn run(args: &UndeleteArgs, context: &Context) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    // All are found before any is brought back.
    let mut plan: Vec<&Snapshot> = Vec::new();
    for text in &args.snapshots {
        let snapshot = snapshots.find_forgotten(text)?;
        if plan.iter().all(|planned| planned.id != snapshot.id) {
            plan.push(snapshot);
        }
    }
    let ids: Vec<_> = plan.iter().map(|snapshot| snapshot.id).collect();
    retention::undelete(&repository, &ids)?;
    context.report(&MarkedReport::of("brought back", &plan))?;
    Ok(Outcome::Done)
}
