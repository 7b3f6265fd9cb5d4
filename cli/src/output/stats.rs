//! What `stats` says.

use std::io::{self, Write};

use cairn_engine::stats::Stats;
use serde::Serialize;

use super::{Report, size};

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
    pub fn of(stats: &Stats) -> Self {
        Self {
            snapshots: stats.snapshots,
            logical_bytes: stats.logical_bytes,
            unique_bytes: stats.unique_bytes,
            stored_bytes: stats.stored_bytes,
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
        writeln!(out, "together     {:.2} to 1", dedup * compression)
    }
}
