//! What `stats` says.

use std::io::{self, Write};

use cairn_engine::id::SnapshotId;
use cairn_engine::repository::Snapshot;
use cairn_engine::stats::{Space, Stats, Usage};
use jiff::Timestamp;
use serde::Serialize;

use super::table::Table;
use super::{Report, size, time};

/// What a repository holds, and what deduplication and compression gain. All lengths are bytes.
#[derive(Debug, Serialize)]
pub struct StatsReport {
    /// Snapshots that are not forgotten.
    pub snapshots: u64,
    /// Data of all their disks, holes left out, each snapshot counted in full.
    pub logical_bytes: u64,
    /// Plain length of the chunks, each counted once.
    pub unique_bytes: u64,
    /// What the repository takes, without the index.
    pub stored_bytes: u64,
    /// What of it is parity.
    pub parity_bytes: u64,
    /// How much parity every pack gets, in percent of it.
    pub parity_percent: Option<u8>,
    /// `logical_bytes / unique_bytes`.
    pub dedup_ratio: f64,
    /// `unique_bytes / stored_bytes`.
    pub compression_ratio: f64,
    /// Chunks, each counted once.
    pub chunks: u64,
    /// Packs.
    pub packs: u64,
}

impl StatsReport {
    /// Completes the counts with the ratios.
    pub fn of(stats: &Stats, parity_percent: Option<u8>) -> Self {
        Self {
            snapshots: stats.snapshots,
            logical_bytes: stats.logical_bytes,
            unique_bytes: stats.unique_bytes,
            stored_bytes: stats.stored_bytes,
            parity_bytes: stats.parity_bytes,
            parity_percent,
            dedup_ratio: stats.dedup_ratio(),
            compression_ratio: stats.compression_ratio(),
            chunks: stats.chunks,
            packs: stats.packs,
        }
    }
}

impl Report for StatsReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let logical = size::human(self.logical_bytes);
        let unique = size::human(self.unique_bytes);
        let stored = size::human(self.stored_bytes);
        let (dedup, compression) = (self.dedup_ratio, self.compression_ratio);
        writeln!(out, "snapshots    {}", self.snapshots)?;
        writeln!(out, "data         {logical} in all snapshots")?;
        writeln!(
            out,
            "unique       {unique} in {} chunks (ratio {dedup:.2})",
            self.chunks
        )?;
        writeln!(
            out,
            "stored       {stored} in {} packs (ratio {compression:.2})",
            self.packs
        )?;
        if let Some(percent) = self.parity_percent {
            let parity = size::human(self.parity_bytes);
            writeln!(out, "parity       {parity} of it ({percent} %)")?;
        }
        writeln!(out, "together     {:.2} to 1", dedup * compression)
    }
}

/// The same, and whom the space belongs to. All lengths are stored bytes.
#[derive(Debug, Serialize)]
pub struct PerReport {
    /// What the repository holds.
    #[serde(flatten)]
    pub totals: StatsReport,
    /// Whom it belongs to.
    pub rows: Vec<SpaceRow>,
    /// What only forgotten snapshots refer to, which rest.
    pub resting_bytes: u64,
    /// What nobody refers to.
    pub unreferenced_bytes: u64,
    /// Whether all could be counted.
    pub complete: bool,
}

/// What one VM or one snapshot takes.
#[derive(Debug, Default, Serialize)]
pub struct SpaceRow {
    /// The snapshot, where it is the row of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<SnapshotId>,
    /// The VM.
    pub vm: String,
    /// The point in time that the snapshot's disks show.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "super::time::rfc3339_or_null")]
    pub time: Option<Timestamp>,
    /// How many snapshots it is the row of.
    pub snapshots: u64,
    /// Data of their disks, holes left out, each snapshot counted in full. Plain bytes.
    pub logical_bytes: u64,
    /// All that they refer to.
    pub used_bytes: u64,
    /// What no other row refers to.
    pub unique_bytes: u64,
    /// What others refer to as well.
    pub shared_bytes: u64,
    /// What forgetting them frees in the end.
    pub freed_bytes: u64,
}

impl SpaceRow {
    /// Begins the row of a VM.
    pub fn of_vm(vm: &str) -> Self {
        Self {
            vm: vm.to_owned(),
            ..Self::default()
        }
    }

    /// Begins the row of a snapshot.
    pub fn of_snapshot(snapshot: &Snapshot) -> Self {
        let mut row = Self {
            id: Some(snapshot.id),
            time: Some(snapshot.manifest.time),
            ..Self::of_vm(&snapshot.manifest.vm)
        };
        row.add(snapshot);
        row
    }

    /// Adds a snapshot to those that it is the row of.
    pub fn add(&mut self, snapshot: &Snapshot) {
        let recipes = snapshot.manifest.recipes();
        let data = recipes.fold(0, |sum: u64, recipe| sum.saturating_add(recipe.data_bytes));
        self.snapshots += 1;
        self.logical_bytes = self.logical_bytes.saturating_add(data);
    }

    /// Says what they take.
    pub fn set(&mut self, space: &Space) {
        self.used_bytes = space.used_bytes;
        self.unique_bytes = space.unique_bytes;
        self.shared_bytes = space.shared_bytes();
        self.freed_bytes = space.freed_bytes;
    }
}

impl PerReport {
    /// Puts the parts together.
    pub fn of(totals: StatsReport, rows: Vec<SpaceRow>, usage: &Usage) -> Self {
        Self {
            totals,
            rows,
            resting_bytes: usage.resting_bytes,
            unreferenced_bytes: usage.unreferenced_bytes,
            complete: !usage.is_partial(),
        }
    }
}

impl Report for PerReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.totals.write_text(out)?;
        let (resting, unused) = (self.resting_bytes, self.unreferenced_bytes);
        writeln!(out, "forgotten    {} rest", size::human(resting))?;
        writeln!(out, "unused       {}\n", size::human(unused))?;
        let mut table = Table::new(&[
            "ID",
            "TIME",
            "VM",
            ">SNAPSHOTS",
            ">DATA",
            ">USED",
            ">UNIQUE",
            ">SHARED",
            ">FREED",
        ]);
        for row in &self.rows {
            table.row([
                row.id.map_or("-".to_owned(), |id| id.short()),
                row.time.map_or("-".to_owned(), time::local),
                row.vm.clone(),
                row.snapshots.to_string(),
                size::human(row.logical_bytes),
                size::human(row.used_bytes),
                size::human(row.unique_bytes),
                size::human(row.shared_bytes),
                size::human(row.freed_bytes),
            ]);
        }
        table.write(out)
    }
}
