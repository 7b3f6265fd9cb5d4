//! What `restore` says.

use std::io::{self, Write};
use std::path::PathBuf;

use cairn_engine::id::SnapshotId;
use serde::Serialize;

use super::table::Table;
use super::{Report, size};

/// Disks that were restored.
#[derive(Debug, Serialize)]
pub struct RestoreReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its disks.
    pub disks: Vec<RestoredDisk>,
}

/// One disk of it. All lengths are bytes.
#[derive(Debug, Serialize)]
pub struct RestoredDisk {
    /// The disk's name in the VM.
    pub target: String,
    /// Where it is now.
    pub path: PathBuf,
    /// The disk's size.
    pub size: u64,
    /// What was written; the rest are holes.
    pub written_bytes: u64,
}

impl Report for RestoreReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "restored snapshot {}", self.snapshot.short())?;
        let mut table = Table::new(&["DISK", ">SIZE", ">WRITTEN", "PATH"]);
        for disk in &self.disks {
            table.row([
                disk.target.clone(),
                size::human(disk.size),
                size::human(disk.written_bytes),
                disk.path.display().to_string(),
            ]);
        }
        table.write(out)
    }
}
