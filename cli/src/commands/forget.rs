//! `cairn forget`: drops named snapshots.

use anyhow::Result;
use cairn_engine::repository::reference::LATEST;
use cairn_engine::repository::{Snapshot, SnapshotState};
use cairn_engine::retention::{self, Grace};
use clap_complete::engine::ArgValueCompleter;
use jiff::Timestamp;

use crate::ask;
use crate::complete;
use crate::context::Context;
use crate::exit::{CliError, Outcome};
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
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    pub snapshots: Vec<String>,

    /// Only say which they are
    #[arg(long)]
    pub dry_run: bool,

    /// Ask nothing
    ///
    /// Without it you are asked on a terminal. Where there is none, snapshots are forgotten that
    /// are named by their ids or dates; the name of a VM alone, which means its newest snapshot, is
    /// refused.
    #[arg(short, long)]
    pub yes: bool,
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
    let forgotten = plan.iter().map(|snapshot| ForgottenSnapshot {
        id: snapshot.id,
        vm: snapshot.manifest.vm.clone(),
        time: snapshot.manifest.time,
        is_newest: is_newest(&snapshots, snapshot),
    });
    let mut report = ForgetReport {
        dry_run: true,
        grace_seconds: grace.seconds(),
        kept_until,
        forgotten: forgotten.collect(),
    };
    if !args.dry_run {
        if !args.yes {
            ask(&args.snapshots, &plan, &report)?;
        }
        let ids: Vec<_> = plan.iter().map(|snapshot| snapshot.id).collect();
        repository.forget(&ids)?;
        report.dry_run = false;
        context.report(&report)?;
        return Ok(Outcome::Done);
    }
    context.print(&report)?;
    Ok(Outcome::Done)
}

/// Returns whether `VM@latest` means this snapshot.
fn is_newest(snapshots: &Snapshots, snapshot: &Snapshot) -> bool {
    let newest = snapshots.newest(&snapshot.manifest.vm);
    newest.is_some_and(|newest| newest == snapshot.id)
}

/// Asks on a terminal; elsewhere refuses a name that means another snapshot the next time.
fn ask(typed: &[String], plan: &[&Snapshot], report: &ForgetReport) -> Result<()> {
    if ask::is_anyone_there() {
        let question = match plan.len() {
            1 => "forget this snapshot?".to_owned(),
            count => format!("forget these {count} snapshots?"),
        };
        return ask::may(report, &question);
    }
    let is_named = |text: &String| {
        let part = text.rsplit('@').next().unwrap_or(text);
        let is_id = |snapshot: &&Snapshot| snapshot.id.to_hex().starts_with(part);
        text.contains('@') && part != LATEST || plan.iter().any(is_id)
    };
    match typed.iter().find(|text| !is_named(text)) {
        None => Ok(()),
        Some(text) => {
            let what = format!("`{text}` means the newest snapshot that there is");
            Err(CliError::NotConfirmed(what).into())
        }
    }
}
