//! `cairn gc`: gives the space of forgotten snapshots back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use cairn_engine::gc::{Collection, GcEvent, GcOptions, GcReport, Waiting};
use cairn_engine::limits::MIB;
use cairn_engine::progress::Progress;
use cairn_engine::repository::grace::Grace;
use jiff::Timestamp;

use crate::commands::verify::Percent;
use crate::context::Context;
use crate::exit::Outcome;
use crate::limit::rate_limit;
use crate::output::gc::CollectionReport;
use crate::output::{size, time};
use crate::session;

const EXAMPLES: &str = "\
Examples:
  cairn gc --dry-run               how much would be freed?
  cairn gc                         free it; what was forgotten within the grace period stays
  cairn gc --grace 0               take what was forgotten just now, too: no way back
  cairn gc --max-unused 0          leave nothing dead, whatever has to be rewritten for it
  cairn gc --wait 0 --limit 50MiB/s

Backups, restores and exports go on meanwhile, and have precedence: gc is nice. A gc that is
interrupted, by whatever, loses nothing: the next one goes on. Exits with 3 where backups that were
at work are to be waited for: what is to be deleted is written down, and the next gc deletes it.";

/// How much more of the processor others get.
const NICENESS: i32 = 10;
/// Memory for sorting: with the rest, half a gigabyte.
const SORT_MEMORY: u64 = 256 * MIB;

/// Free the space of forgotten snapshots
///
/// Deletes forgotten snapshots whose grace period is over, and what no other snapshot needs. What
/// is needed is moved out of packs in which too much is dead.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct GcArgs {
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,

    /// How long forgotten snapshots rest, such as 7d [default: as the repository is set]
    #[arg(long, value_name = "TIME")]
    pub grace: Option<Grace>,

    /// How much of what is stored may be dead and stay
    #[arg(long, value_name = "PERCENT", default_value = "5%")]
    pub max_unused: String,

    /// How long to wait for backups that are at work, such as 10min or 2h
    #[arg(long, value_name = "DURATION", default_value = "10min", value_parser = time::parse)]
    pub wait: Duration,

    /// Read no faster than so many bytes a second, such as 100MiB/s
    #[arg(long, value_name = "RATE")]
    pub limit: Option<String>,

    /// Folder for temporary files, where there is much to sort [default: in the repository]
    #[arg(long, value_name = "FOLDER")]
    pub tmp: Option<PathBuf>,

    /// Go on where chunks that snapshots need are lost already
    #[arg(long)]
    pub despite_missing: bool,
}

/// Runs the command.
pub fn run(args: &GcArgs, context: &Context) -> Result<Outcome> {
    let max_unused = percent(&args.max_unused)?;
    let limit = rate_limit(args.limit.as_deref())?;
    // Nobody waits for a collection; those at work beside it are waited for.
    let _ = rustix::process::nice(NICENESS);
    let repository = session::open(context)?;
    let cancel = context.cancel()?;
    let progress = Arc::new(Progress::default());
    let observe = |event: GcEvent<'_>| remark(context, &event);
    let options = GcOptions {
        grace: args.grace.unwrap_or_else(|| Grace::of(repository.config())),
        now: Timestamp::now(),
        max_unused,
        wait: Some(args.wait),
        despite_missing: args.despite_missing,
        memory: SORT_MEMORY,
        temp: args.tmp.clone(),
        threads: context.threads().get(),
        limit: limit.as_deref(),
        progress: &progress,
        cancel: &cancel,
        observe: &observe,
    };
    let meter = context.meter("gc", &progress);
    let collection = Collection::begin(&repository, options)?;
    let report = match args.dry_run {
        true => collection.survey()?,
        false => collection.run()?,
    };
    drop(meter);
    warn(context, &report);
    let outcome = match report.waiting_for.is_empty() {
        true if report.damaged.is_empty() => Outcome::Done,
        _ => Outcome::Problems,
    };
    let report = CollectionReport::of(report, args.dry_run);
    match (args.dry_run, outcome) {
        (false, Outcome::Done) => context.report(&report)?,
        _ => context.print(&report)?,
    }
    Ok(outcome)
}

/// Parses a share that may be nothing.
fn percent(text: &str) -> Result<f64> {
    if matches!(text.trim_end_matches('%').trim(), "0" | "0.0") {
        return Ok(0.0);
    }
    let share: Result<Percent, String> = text.parse();
    Ok(share.map_err(crate::exit::CliError::Usage)?.0)
}

fn remark(context: &Context, event: &GcEvent<'_>) {
    match event {
        GcEvent::Marked { nodes, took } => {
            let rate = *nodes as f64 / took.as_secs_f64().max(0.001);
            let seconds = took.as_secs_f64();
            let text = format!("read {nodes} recipe nodes in {seconds:.1} s ({rate:.0} a second)");
            context.detail(&text);
        }
        GcEvent::Repacking { packs, bytes } => {
            let bytes = size::human(*bytes);
            context.remark(&format!("moving about {bytes} out of {packs} packs"));
        }
        GcEvent::Waiting(writers) => writers.iter().for_each(|writer| waiting(context, writer)),
        GcEvent::Deleting { packs } => context.detail(&format!("deleting {packs} packs")),
        _ => {}
    }
}

fn waiting(context: &Context, writer: &Waiting) {
    match writer.is_stopped {
        true => context.warn(&format!(
            "waiting for {writer}, which is stopped: continue it (kill -CONT) or end it"
        )),
        false => context.remark(&format!("waiting for {writer}")),
    }
}

fn warn(context: &Context, report: &GcReport) {
    if report.dropped_plan {
        context.warn("an earlier gc's plan was damaged; it was dropped, and made anew");
    }
    if let Some(newest) = report.behind {
        context.warn(&format!(
            "snapshot {newest:.12} is dated after now: this clock is behind, or that one was \
             ahead. What was forgotten rests on until then, or until that snapshot is forgotten"
        ));
    }
    if report.was_full {
        context.warn(
            "there was no space to move anything; only packs without anything needed were \
             deleted. Run `cairn gc` again",
        );
    }
    if report.missing_chunks > 0 {
        let lost = report.missing_chunks;
        context.warn(&format!(
            "{lost} chunks that snapshots need are in no pack; `cairn verify` names them"
        ));
    }
    for pack in &report.damaged {
        context.warn(&format!(
            "pack {pack} stays: not all of it can be read. `cairn verify` says whom that hurts"
        ));
    }
}
