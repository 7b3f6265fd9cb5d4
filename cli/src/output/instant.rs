//! What `instant` says.

use std::io::{self, Write};
use std::path::PathBuf;

use cairn_engine::id::SnapshotId;
use serde::Serialize;

use super::Report;
use super::table::Table;

/// Instant restores that are not at their end.
#[derive(Debug, Serialize)]
pub struct InstantReport {
    /// One for each domain.
    pub instants: Vec<InstantStatus>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct InstantStatus {
    /// The domain's name.
    pub domain: String,
    /// The domain's UUID.
    pub uuid: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its repository.
    pub repository: PathBuf,
    /// Where the export listens.
    pub socket: PathBuf,
    /// Whether the export's process is there.
    pub export_alive: bool,
    /// Whether the process is there that watches.
    pub supervisor_alive: bool,
    /// What libvirt says of the domain: `running`, `off` or `gone`; none where it says nothing.
    pub state: Option<&'static str>,
    /// The disks.
    pub disks: Vec<InstantDiskStatus>,
}

/// How far a disk is.
#[derive(Debug, Serialize)]
pub struct InstantDiskStatus {
    /// Its name in the guest.
    pub target: String,
    /// Its file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it needs the export no more.
    pub is_whole: bool,
    /// How far its pull is; none without one.
    pub percent: Option<f64>,
}

impl Report for InstantReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["DOMAIN", "SNAPSHOT", "STATE", "EXPORT", "WATCHER", "DISKS"]);
        let alive = |is_alive| if is_alive { "alive" } else { "dead" }.to_owned();
        for instant in &self.instants {
            let disks: Vec<String> = instant.disks.iter().map(progress).collect();
            table.row([
                instant.domain.clone(),
                instant.snapshot.short().to_string(),
                instant.state.unwrap_or("unknown").to_owned(),
                alive(instant.export_alive),
                alive(instant.supervisor_alive),
                disks.join(", "),
            ]);
        }
        table.write(out)
    }
}

fn progress(disk: &InstantDiskStatus) -> String {
    match (disk.is_whole, disk.percent) {
        (true, _) => format!("{} whole", disk.target),
        (false, Some(percent)) => format!("{} {percent:.0} %", disk.target),
        (false, None) => format!("{} waiting", disk.target),
    }
}

/// A text that is the whole result, such as a systemd unit.
#[derive(Debug, Serialize)]
pub struct UnitReport {
    /// The name that its file should have.
    pub file_name: String,
    /// Its text.
    pub unit: String,
}

impl Report for UnitReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.unit.as_bytes())
    }
}

/// A restore that was given up.
#[derive(Debug, Serialize)]
pub struct AbortReport {
    /// The domain.
    pub domain: String,
    /// Files that were removed.
    pub removed: Vec<PathBuf>,
}

impl Report for AbortReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "gave up the instant restore of {}", self.domain)?;
        for path in &self.removed {
            writeln!(out, "removed {}", path.display())?;
        }
        Ok(())
    }
}
