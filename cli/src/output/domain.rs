//! What the commands for libvirt's domains say.

use std::io::{self, Write};

use serde::Serialize;

use super::backup::BackupReport;
use super::table::{Table, printable};
use super::{Report, size, time};

/// What `recover` did.
#[derive(Debug, Serialize)]
pub struct RecoverReport {
    /// The domain.
    pub domain: String,
    /// Dead runs that were cleared up after.
    pub runs: usize,
    /// Records that are not believed, and were left alone.
    pub refused: usize,
    /// Whether a restore in place was finished.
    pub in_place: bool,
    /// Dead proofs, of any snapshot, that were cleared up after.
    pub proofs: usize,
}

impl Report for RecoverReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let domain = printable(self.domain.clone());
        if self.in_place {
            writeln!(out, "{domain}: a restore in place was finished")?;
        }
        match self.proofs {
            0 => {}
            1 => writeln!(out, "cleared up after a dead proof")?,
            proofs => writeln!(out, "cleared up after {proofs} dead proofs")?,
        }
        match self.runs {
            0 if self.in_place || self.proofs > 0 || self.refused > 0 => Ok(()),
            0 => writeln!(out, "{domain}: nothing to clear up"),
            1 => writeln!(out, "{domain}: cleared up after a dead run"),
            runs => writeln!(out, "{domain}: cleared up after {runs} dead runs"),
        }
    }
}

/// What `cancel` did.
#[derive(Debug, Serialize)]
pub struct CancelReport {
    /// The domain.
    pub domain: String,
    /// The process whose backup was ended.
    pub pid: u32,
}

impl Report for CancelReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let domain = printable(self.domain.clone());
        writeln!(
            out,
            "{domain}: the backup of process {} was ended",
            self.pid
        )
    }
}

/// What became of several domains.
#[derive(Debug, Serialize)]
pub struct FleetReport {
    /// Each domain, in the order of their names.
    pub backups: Vec<FleetBackup>,
    /// Domains with a snapshot.
    pub done: usize,
    /// Domains without.
    pub failed: usize,
}

/// What became of one of several domains.
#[derive(Debug, Serialize)]
pub struct FleetBackup {
    /// The domain.
    pub vm: String,
    /// `done`, `problems` or `failed`.
    pub outcome: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupReport>,
}

impl Report for FleetReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let headings = ["VM", "OUTCOME", "SNAPSHOT", ">TIME", ">READ", ">STORED", ""];
        let mut table = Table::new(&headings);
        for backup in &self.backups {
            let told = |tell: fn(&BackupReport) -> String| {
                let told = backup.backup.as_ref().map(tell);
                told.unwrap_or_else(|| "-".to_owned())
            };
            table.row([
                backup.vm.clone(),
                backup.outcome.to_owned(),
                told(|report| report.snapshot.short()),
                told(|report| time::duration(report.duration_ms.div_ceil(1000))),
                told(|report| size::human(report.read_bytes())),
                told(|report| size::human(report.stored_bytes())),
                backup.error.clone().unwrap_or_default(),
            ]);
        }
        table.write(out)?;
        let all = || {
            self.backups
                .iter()
                .filter_map(|backup| backup.backup.as_ref())
        };
        let sum =
            |of: fn(&BackupReport) -> u64| size::human(all().map(of).fold(0, u64::saturating_add));
        let (read, stored) = (
            sum(BackupReport::read_bytes),
            sum(BackupReport::stored_bytes),
        );
        let (done, failed) = (self.done, self.failed);
        writeln!(
            out,
            "{done} done, {failed} failed; {read} read, {stored} stored"
        )
    }
}
