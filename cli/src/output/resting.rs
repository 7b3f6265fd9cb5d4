//! What `snapshots --forgotten` says.

use std::io::{self, Write};

use cairn_engine::repository::Snapshot;
use cairn_engine::retention::{self, Grace};
use jiff::Timestamp;
use serde::Serialize;

use super::snapshots::SnapshotReport;
use super::table::Table;
use super::{Report, time};

/// The forgotten snapshots of a repository, oldest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct RestingReport(pub Vec<RestingSnapshot>);

/// One of them.
#[derive(Debug, Serialize)]
pub struct RestingSnapshot {
    /// What any listing says of it.
    #[serde(flatten)]
    pub snapshot: SnapshotReport,
    /// Since when it is forgotten.
    #[serde(serialize_with = "super::time::rfc3339_or_null")]
    pub forgotten: Option<Timestamp>,
    /// Until when it rests; none where a collection leaves it alone.
    #[serde(serialize_with = "super::time::rfc3339_or_null")]
    pub kept_until: Option<Timestamp>,
    /// Why a collection leaves it alone.
    pub kept_by: Vec<String>,
}

impl RestingSnapshot {
    /// Returns what a snapshot's manifest and notes say.
    pub fn of(snapshot: &Snapshot, grace: Grace) -> Self {
        let state = &snapshot.state;
        let protection = state.is_protected.then(|| "protected".to_owned());
        let damage = state.has_damaged_note;
        let damage = damage.then(|| "one of its notes is damaged".to_owned());
        let pins = state.pins.iter().map(|pin| format!("pinned by {pin}"));
        Self {
            snapshot: SnapshotReport::of(snapshot),
            forgotten: state.forgotten,
            kept_until: retention::due(state, grace),
            kept_by: protection.into_iter().chain(damage).chain(pins).collect(),
        }
    }
}

impl Report for RestingReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["ID", "TIME", "VM", "FORGOTTEN", "KEPT UNTIL"]);
        let shown = |time: Option<Timestamp>| time.map_or("-".to_owned(), time::local);
        for resting in &self.0 {
            let kept = match resting.kept_by.as_slice() {
                [] => shown(resting.kept_until),
                reasons => reasons.join(", "),
            };
            table.row([
                resting.snapshot.id.short(),
                time::local(resting.snapshot.time),
                resting.snapshot.vm.clone(),
                shown(resting.forgotten),
                kept,
            ]);
        }
        table.write(out)
    }
}
