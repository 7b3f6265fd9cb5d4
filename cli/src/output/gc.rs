//! What `gc` says.

use std::io::{self, Write};

use cairn_engine::gc::{GcReport, Waiting};
use serde::Serialize;

use super::{Report, size};

/// What a collection did, or would do. All lengths are stored bytes.
#[derive(Debug, Serialize)]
pub struct CollectionReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether everything was done; else the next `gc` goes on.
    pub finished: bool,
    /// Whether an earlier collection was gone on with first.
    pub resumed: bool,
    /// Snapshots that stay.
    pub snapshots: u64,
    /// Forgotten snapshots deleted.
    pub deleted_snapshots: Vec<String>,
    /// Distinct recipe nodes read.
    pub nodes: u64,
    /// Bytes of all packs before.
    pub stored_bytes: u64,
    /// Bytes in them that nothing needs.
    pub dead_bytes: u64,
    /// Packs deleted.
    pub deleted_packs: u64,
    /// Bytes in these.
    pub deleted_bytes: u64,
    /// Packs written for what had to be moved.
    pub written_packs: u64,
    /// Bytes in these.
    pub written_bytes: u64,
    /// `deleted_bytes - written_bytes`.
    pub freed_bytes: i64,
    /// Packs that stay because a snapshot published meanwhile needs them.
    pub rescued_packs: u64,
    /// Packs that stay because they cannot be read whole.
    pub damaged_packs: Vec<String>,
    /// Chunks that snapshots need and no pack has.
    pub missing_chunks: u64,
    /// Whether there was no space to move anything.
    pub was_full: bool,
    /// Backups that have to end first.
    pub waiting_for: Vec<Writer>,
}

/// A backup that has to end first.
#[derive(Debug, Serialize)]
pub struct Writer {
    /// Its session.
    pub session: String,
    /// What it does.
    pub command: Option<String>,
    /// Its host.
    pub host: Option<String>,
    /// Its process there.
    pub pid: Option<u32>,
    /// Whether it is stopped, and will not end by itself.
    pub is_stopped: bool,
    #[serde(skip)]
    text: String,
}

impl CollectionReport {
    /// Puts together what is said.
    pub fn of(report: GcReport, dry_run: bool) -> Self {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let hex = |id: &cairn_engine::id::PackId| id.to_hex();
        Self {
            dry_run,
            finished: report.waiting_for.is_empty(),
            resumed: report.resumed,
            snapshots: report.snapshots,
            deleted_snapshots: report.taken.iter().map(|id| id.to_hex()).collect(),
            nodes: report.nodes,
            stored_bytes: report.stored_bytes,
            dead_bytes: report.dead_bytes,
            deleted_packs: report.deleted_packs,
            deleted_bytes: report.deleted_bytes,
            written_packs: report.written_packs,
            written_bytes: report.written_bytes,
            freed_bytes: signed(report.deleted_bytes) - signed(report.written_bytes),
            rescued_packs: report.rescued,
            damaged_packs: report.damaged.iter().map(hex).collect(),
            missing_chunks: report.missing_chunks,
            was_full: report.was_full,
            waiting_for: report.waiting_for.iter().map(Writer::of).collect(),
        }
    }
}

impl Writer {
    /// Takes over what is known of a writer.
    pub fn of(writer: &Waiting) -> Self {
        Self {
            session: writer.session.to_hex(),
            command: writer.command.clone(),
            host: writer.host.clone(),
            pid: writer.pid,
            is_stopped: writer.is_stopped,
            text: writer.to_string(),
        }
    }
}

impl Report for CollectionReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let would = if self.dry_run { "would be " } else { "" };
        let (stored, dead) = (size::human(self.stored_bytes), size::human(self.dead_bytes));
        writeln!(out, "stored       {stored}, of which {dead} are dead")?;
        let taken = self.deleted_snapshots.len();
        writeln!(
            out,
            "snapshots    {} stay, {taken} {would}deleted",
            self.snapshots
        )?;
        let deleted = size::human(self.deleted_bytes);
        writeln!(
            out,
            "deleted      {deleted} in {} packs",
            self.deleted_packs
        )?;
        let written = size::human(self.written_bytes);
        writeln!(out, "written      {written}, moved out of these")?;
        let freed = size::human(u64::try_from(self.freed_bytes).unwrap_or(0));
        let label = if self.dry_run { "would free" } else { "freed" };
        writeln!(out, "{label:<12} {freed}")?;
        for writer in &self.waiting_for {
            writeln!(
                out,
                "not finished: {} is at work; run `cairn gc` again",
                writer.text
            )?;
        }
        Ok(())
    }
}
