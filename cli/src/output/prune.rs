//! What `prune` says.

use std::io::{self, Write};

use cairn_engine::id::SnapshotId;
use cairn_engine::retention::{Grace, Group};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::table::Table;
use super::{Report, size, time};

/// What becomes of snapshots by a policy.
#[derive(Debug, Serialize)]
pub struct PruneReport {
    /// Whether this is only the plan.
    pub dry_run: bool,
    /// For how many seconds forgotten snapshots rest.
    pub grace_seconds: u64,
    /// How many are kept.
    pub kept: u64,
    /// How many are forgotten.
    pub forgotten: u64,
    /// How many stored bytes forgetting them frees in the end, which is counted for a plan only.
    pub freed_bytes: Option<u64>,
    /// The zone in which days begin.
    #[serde(skip)]
    zone: TimeZone,
    /// The snapshots by VMs, the oldest of each first.
    pub decisions: Vec<DecidedSnapshot>,
}

/// What becomes of one snapshot.
#[derive(Debug, Serialize)]
pub struct DecidedSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// The VM.
    pub vm: String,
    /// UUID of the domain, where it was one.
    pub domain: Option<String>,
    /// The value of the tag that divides.
    pub group_tag: Option<String>,
    /// The point in time that its disks show.
    #[serde(serialize_with = "super::time::rfc3339")]
    pub time: Timestamp,
    /// `keep` or `forget`.
    pub action: &'static str,
    /// Why, one text for each rule.
    pub reasons: Vec<String>,
}

impl PruneReport {
    /// Returns what was decided.
    pub fn of(
        groups: &[Group<'_>],
        dry_run: bool,
        grace: Grace,
        freed: Option<u64>,
        zone: TimeZone,
    ) -> Self {
        let mut decisions = Vec::new();
        for group in groups {
            for decision in &group.decisions {
                let action = match decision.is_kept() {
                    true => "keep",
                    false => "forget",
                };
                decisions.push(DecidedSnapshot {
                    id: decision.id,
                    vm: group.vm.to_owned(),
                    domain: group.domain.map(str::to_owned),
                    group_tag: group.tag.map(str::to_owned),
                    time: decision.time,
                    action,
                    reasons: decision.reasons.iter().map(ToString::to_string).collect(),
                });
            }
        }
        let count = |action| {
            let found = decisions.iter().filter(|found| found.action == action);
            found.count() as u64
        };
        Self {
            dry_run,
            grace_seconds: grace.seconds(),
            kept: count("keep"),
            forgotten: count("forget"),
            freed_bytes: freed,
            zone,
            decisions,
        }
    }
}

impl Report for PruneReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["ID", "TIME", "VM", "ACTION", "REASON"]);
        for decision in &self.decisions {
            table.row([
                decision.id.short(),
                time::in_zone(decision.time, self.zone.clone()),
                decision.vm.clone(),
                decision.action.to_owned(),
                decision.reasons.join(", "),
            ]);
        }
        table.write(out)?;
        let verb = match self.dry_run {
            true => "would forget",
            false => "forgot",
        };
        let all = self.kept + self.forgotten;
        write!(out, "{verb} {} of {all} snapshots", self.forgotten)?;
        match self.freed_bytes.map(size::human) {
            None => writeln!(out),
            Some(bytes) => writeln!(out, ", which frees {bytes} once a collection takes them"),
        }
    }
}
