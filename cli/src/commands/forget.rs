//! `cairn forget`: drops named snapshots.

use anyhow::Result;
use cairn_engine::repository::{Snapshot, SnapshotState};
use cairn_engine::retention::{self, Grace};
use jiff::Timestamp;

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::forget::{ForgetReport, ForgottenSnapshot};
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn forget 3f2a9c --dry-run
  cairn forget web1@2026-11-01 web1@2026-11-02

They rest for the time that `cairn init --grace` set: until then `cairn undelete` brings them back.
`cairn gc` gives back the space afterwards, as far as no other snapshot needs it.";

/// Forget snapshots
///
/// They are no longer listed, restored or used as parents.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ForgetArgs {
    /// Snapshots to forget: ids or their first digits, VM@ID or VM@DATE
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,

    /// Only say which they are
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
pub fn run(args: &ForgetArgs, context: &Context) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    // All are found before any is forgotten: a mistake in one forgets none.
    let mut plan: Vec<&Snapshot> = Vec::new();
    for text in &args.snapshots {
        let snapshot = snapshots.find(text)?;
        snapshot.state.check_forgettable(snapshot.id)?;
        if plan.iter().all(|planned| planned.id != snapshot.id) {
            plan.push(snapshot);
        }
    }
    let grace = Grace::of(repository.config());
    let rest = SnapshotState {
        forgotten: Some(Timestamp::now()),
        ..SnapshotState::default()
    };
    let kept_until = retention::due(&rest, grace);
    if !args.dry_run {
        let ids: Vec<_> = plan.iter().map(|snapshot| snapshot.id).collect();
        repository.forget(&ids)?;
    }
    let forgotten = plan.into_iter().map(|snapshot| ForgottenSnapshot {
        id: snapshot.id,
        vm: snapshot.manifest.vm.clone(),
        time: snapshot.manifest.time,
    });
    let report = ForgetReport {
        dry_run: args.dry_run,
        grace_seconds: grace.seconds(),
        kept_until,
        forgotten: forgotten.collect(),
    };
    context.print(&report)?;
    Ok(Outcome::Done)
}
