//! `cairn prune`: drops snapshots by a policy.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::Result;
use cairn_engine::id::SnapshotId;
use cairn_engine::repository::{Access, Repository};
use cairn_engine::retention::{
    Candidate, Clock, Count, Grace, Group, KeepSpan, KeepTag, Policy, Reason, decide,
};
use cairn_engine::stats::{Owned, Usage};
use globset::{Glob, GlobSet, GlobSetBuilder};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::stats::{count, is_resting};
use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::output::prune::PruneReport;
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn prune --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  cairn prune --keep-last 3 --keep-within 2m --vm 'web*' --vm db
  cairn prune --keep-daily 14 --keep-tag release --group-by-tag job --time-zone Europe/Berlin

N is a number or `unlimited`. Days, weeks and so on without a snapshot do not count. A snapshot is
kept if any rule keeps it; protected ones, pinned ones and those whose date cannot be right are kept
too, and take nobody's place. `cairn undelete` brings back what was forgotten, until `cairn gc` has
taken it.";

/// Forget the snapshots that no rule keeps
///
/// Each virtual machine is counted for itself.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PruneArgs {
    /// Only virtual machines whose names fit (can be given several times)
    #[arg(long = "vm", value_name = "GLOB")]
    pub vms: Vec<Glob>,

    /// Only snapshots with this tag (can be given several times: with all of them)
    #[arg(long = "tag", value_name = "KEY[=VALUE]")]
    pub tags: Vec<KeepTag>,

    /// Keep the newest N
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub keep_last: Count,

    /// Keep the newest of each of the last N hours that have any
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub keep_hourly: Count,

    /// Keep the newest of each of the last N days that have any
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub keep_daily: Count,

    /// Keep the newest of each of the last N ISO weeks that have any
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub keep_weekly: Count,

    /// Keep the newest of each of the last N months that have any
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub keep_monthly: Count,

    /// Keep the newest of each of the last N years that have any
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub keep_yearly: Count,

    /// Keep all that are not older than this before the newest, such as 2y5m7d3h
    #[arg(long, value_name = "DURATION")]
    pub keep_within: Option<KeepSpan>,

    /// Keep all that have this tag (can be given several times)
    #[arg(long = "keep-tag", value_name = "KEY[=VALUE]")]
    pub keep_tags: Vec<KeepTag>,

    /// Count snapshots with different values of this tag apart from one another
    #[arg(long, value_name = "KEY")]
    pub group_by_tag: Option<String>,

    /// Time zone in which days begin, such as Europe/Berlin [default: the system's]
    #[arg(long, value_name = "ZONE", value_parser = time_zone)]
    pub time_zone: Option<TimeZone>,

    /// Only say what would become of each, and how many bytes that will free
    #[arg(long)]
    pub dry_run: bool,
}

fn time_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| "there is no such time zone".to_owned())
}

/// Runs the command.
pub fn run(args: &PruneArgs, context: &Context) -> Result<Outcome> {
    let vms = globs(&args.vms)?;
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let clock = Clock {
        now: Timestamp::now(),
        zone: args.time_zone.clone().unwrap_or_else(TimeZone::system),
    };
    let all = Candidate::all(&snapshots.list.snapshots);
    let is_wanted = |snapshot: &Candidate<'_>| {
        (args.vms.is_empty() || vms.is_match(snapshot.vm))
            && args.tags.iter().all(|tag| tag.fits(snapshot.tags))
    };
    let divided_by = args.group_by_tag.as_deref();
    let groups = decide(&all, &args.policy(), divided_by, &clock, is_wanted)
        .map_err(|error| CliError::Usage(error.to_string()))?;
    warn_of_doubts(context, &groups);
    let dropped = groups.iter().flat_map(|group| &group.decisions);
    let dropped = dropped.filter(|decision| !decision.is_kept());
    let dropped: HashSet<_> = dropped.map(|decision| decision.id).collect();
    let usage = match args.dry_run {
        true => Some(count_freed(context, &repository, &snapshots, &dropped)?),
        false => {
            let dropped: Vec<_> = dropped.iter().copied().collect();
            repository.forget(&dropped)?;
            None
        }
    };
    let grace = Grace::of(repository.config());
    let freed = usage
        .as_ref()
        .and_then(|usage| usage.owners.get(DROPPED as usize));
    let freed = freed.map(|space| space.freed_bytes);
    let report = PruneReport::of(&groups, args.dry_run, grace, freed, clock.zone);
    match args.dry_run {
        true => context.print(&report)?,
        false => context.report(&report)?,
    }
    let is_partial = usage.is_some_and(|usage| usage.is_partial());
    Ok(match snapshots.list.unreadable.is_empty() && !is_partial {
        true => Outcome::Done,
        false => Outcome::Damage,
    })
}

/// How many snapshots of one doubt are named on stderr; the table names all.
const NAMED_MAX: usize = 8;

/// Whom space belongs to: those that are kept, and those that are dropped.
const KEPT: u32 = 0;
const DROPPED: u32 = 1;

fn count_freed(
    context: &Context,
    repository: &Arc<Repository>,
    snapshots: &Snapshots,
    dropped: &HashSet<SnapshotId>,
) -> Result<Usage> {
    let owned = snapshots.list.snapshots.iter().map(|snapshot| {
        let owner = match dropped.contains(&snapshot.id) {
            true => DROPPED,
            false => KEPT,
        };
        Owned {
            snapshot,
            owner: (!is_resting(snapshot)).then_some(owner),
        }
    });
    let owned: Vec<_> = owned.collect();
    let contents = session::contents(context, repository, Access::Read(Vec::new()), "prune")?;
    count(context, &contents, &owned, 2)
}

impl PruneArgs {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within.unwrap_or_default(),
            tags: self.keep_tags.clone(),
        }
    }
}

fn globs(globs: &[Glob]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob.clone());
    }
    let set = set.build();
    Ok(set.map_err(|error| CliError::Usage(error.to_string()))?)
}

/// Names the snapshots that are kept because some clock was wrong: somebody has to look.
fn warn_of_doubts(context: &Context, groups: &[Group<'_>]) {
    let mut before: BTreeMap<(&str, SnapshotId), Vec<SnapshotId>> = BTreeMap::new();
    for group in groups {
        let vm = group.vm;
        for decision in &group.decisions {
            for reason in &decision.reasons {
                let id = decision.id;
                match reason {
                    Reason::Future => context.warn(&format!(
                        "{} of {vm} is {reason}, and kept: forget it by hand if its date is false",
                        id.short()
                    )),
                    Reason::OutOfOrder { ancestor } => {
                        before.entry((vm, *ancestor)).or_default().push(id);
                    }
                    _ => {}
                }
            }
        }
    }
    for ((vm, ancestor), ids) in before {
        let named: Vec<String> = ids.iter().take(NAMED_MAX).map(SnapshotId::short).collect();
        let more = match ids.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        context.warn(&format!(
            "{}{more} of {vm} are dated before {}, from which they were computed, and kept: \
             forget the one with the false date by hand",
            named.join(", "),
            ancestor.short()
        ));
    }
}
