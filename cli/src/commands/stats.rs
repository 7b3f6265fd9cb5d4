//! `cairn stats`: what deduplication and compression gain, and whom the space belongs to.

use std::collections::BTreeMap;

use anyhow::Result;
use cairn_engine::repository::{Access, Contents, Snapshot};
use cairn_engine::retention;
use cairn_engine::stats::{self, Owned, Usage, UsageOptions};

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::stats::{PerReport, SpaceRow, StatsReport};
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn stats
  cairn stats --json | jq .dedup_ratio
  cairn stats --per vm
  cairn stats --per snapshot --json | jq -r '.rows[] | [.id, .freed_bytes] | @tsv'";

/// Show what the repository holds, and what deduplication and compression gain
///
/// "Data" counts every snapshot in full, without holes. "Unique" counts each chunk once. "Stored"
/// is what the repository takes on disk, without its index, which can be rebuilt.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StatsArgs {
    /// Tell also whom the space belongs to, in stored bytes
    ///
    /// USED is all that a row refers to, UNIQUE what no other row does, SHARED the rest. FREED is
    /// what a collection gives back once the row's snapshots are forgotten and have rested.
    /// Snapshots that rest already hold nothing back.
    #[arg(long, value_name = "WHAT")]
    pub per: Option<Per>,
}

/// What space is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Per {
    /// By virtual machines
    Vm,
    /// By snapshots
    Snapshot,
}

/// Runs the command.
pub fn run(args: &StatsArgs, context: &Context) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let contents = session::contents(context, &repository, Access::Read(Vec::new()), "stats")?;
    let stats = stats::stats(&contents, &snapshots.list, context.threads().get())?;
    let totals = StatsReport::of(&stats, repository.config().parity_percent);
    let Some(per) = args.per else {
        context.print(&totals)?;
        return Ok(Outcome::Done);
    };
    let (owned, mut rows) = match per {
        Per::Vm => by_vm(&snapshots),
        Per::Snapshot => by_snapshot(&snapshots),
    };
    let usage = count(context, &contents, &owned, rows.len())?;
    for (row, space) in rows.iter_mut().zip(&usage.owners) {
        row.set(space);
    }
    context.print(&PerReport::of(totals, rows, &usage))?;
    Ok(match usage.is_partial() {
        true => Outcome::Damage,
        false => Outcome::Done,
    })
}

/// Counts whom the space belongs to, and warns where damage keeps something from being counted.
pub fn count(
    context: &Context,
    contents: &Contents,
    owned: &[Owned<'_>],
    owners: usize,
) -> Result<Usage> {
    let options = UsageOptions {
        threads: context.threads().get(),
        cancel: &context.cancel()?,
    };
    let usage = stats::usage(contents, owned, u32::try_from(owners)?, &options)?;
    if usage.is_partial() {
        let (packs, nodes) = (usage.unreadable_packs, usage.lost_nodes);
        let chunks = usage.lost_chunks;
        context.warn(&format!(
            "{packs} packs and {nodes} recipe nodes cannot be read, and {chunks} chunks are \
             missing: not all is counted; `cairn verify` names what is damaged"
        ));
    }
    Ok(usage)
}

/// Returns whether a snapshot only rests until a collection takes it.
pub fn is_resting(snapshot: &Snapshot) -> bool {
    let state = &snapshot.state;
    // Without an end to its rest it is held by something.
    retention::due(state, retention::Grace::NONE).is_some()
}

fn by_snapshot(snapshots: &Snapshots) -> (Vec<Owned<'_>>, Vec<SpaceRow>) {
    let mut rows = Vec::new();
    let owned = snapshots.list.snapshots.iter().map(|snapshot| {
        let owner = (!is_resting(snapshot)).then(|| {
            rows.push(SpaceRow::of_snapshot(snapshot));
            rows.len() - 1
        });
        owned(snapshot, owner)
    });
    (owned.collect(), rows)
}

fn by_vm(snapshots: &Snapshots) -> (Vec<Owned<'_>>, Vec<SpaceRow>) {
    let mut rows: Vec<SpaceRow> = Vec::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let all = snapshots.list.snapshots.iter();
    let owned = all.map(|snapshot| {
        let vm = &*snapshot.manifest.vm;
        let owner = (!is_resting(snapshot)).then(|| {
            let number = *numbers.entry(vm).or_insert_with(|| {
                rows.push(SpaceRow::of_vm(vm));
                rows.len() - 1
            });
            rows[number].add(snapshot);
            number
        });
        owned(snapshot, owner)
    });
    (owned.collect(), rows)
}

fn owned(snapshot: &Snapshot, owner: Option<usize>) -> Owned<'_> {
    Owned {
        snapshot,
        owner: owner.map(|owner| u32::try_from(owner).expect("a row takes more than 4 bytes")),
    }
}
