//! What `backup` says.

use std::io::{self, Write};

use cairn_engine::format::manifest::{DiskMode, DiskRecord};
use cairn_engine::id::{NodeId, SnapshotId};
use serde::Serialize;

use super::table::{Table, printable};
use super::{Report, size};

/// A snapshot that was made.
#[derive(Debug, Serialize)]
pub struct BackupReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The VM.
    pub vm: String,
    /// The snapshot that it was computed against.
    pub parent: Option<SnapshotId>,
    /// Its disks.
    pub disks: Vec<DiskReport>,
    /// Disks that were read whole against expectation, and why.
    pub warnings: Vec<String>,
}

/// One disk of it. All lengths are bytes.
#[derive(Debug, Serialize)]
pub struct DiskReport {
    /// The disk's name in the VM.
    pub target: String,
    /// The disk's size.
    pub size: u64,
    /// How it was read.
    pub mode: DiskMode,
    /// Read from the source, and from the repository around changes.
    pub read_bytes: u64,
    /// Called changed by the source.
    pub dirty_bytes: u64,
    /// In chunks that were there before.
    pub reused_bytes: u64,
    /// Chunks stored.
    pub new_chunks: u64,
    /// Their plain length.
    pub new_bytes: u64,
    /// What storing them took.
    pub stored_bytes: u64,
    /// Root of the disk's recipe.
    pub recipe: NodeId,
}

impl DiskReport {
    /// Returns what a manifest says of a disk that was just read.
    pub fn of(disk: &DiskRecord) -> Self {
        Self {
            target: disk.target.clone(),
            size: disk.size,
            mode: disk.mode,
            read_bytes: disk.read_bytes,
            dirty_bytes: disk.dirty_bytes,
            reused_bytes: disk.reused_bytes,
            new_chunks: disk.new_chunks,
            new_bytes: disk.new_bytes,
            stored_bytes: disk.stored_bytes,
            recipe: disk.recipe,
        }
    }
}

/// Returns the word for how a disk was read, the same as in JSON.
pub fn mode_word(mode: DiskMode) -> &'static str {
    match mode {
        DiskMode::Full => "full",
        DiskMode::Incremental => "incremental",
        DiskMode::Scan => "scan",
    }
}

impl Report for BackupReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let vm = printable(self.vm.clone());
        write!(out, "snapshot {} of {vm}", self.snapshot.short())?;
        match &self.parent {
            Some(parent) => writeln!(out, ", parent {}", parent.short())?,
            None => writeln!(out)?,
        }
        let mut table = Table::new(&[
            "DISK", ">SIZE", "MODE", ">CHANGED", ">READ", ">REUSED", ">NEW", ">STORED",
        ]);
        for disk in &self.disks {
            let changed = match disk.mode {
                DiskMode::Incremental => size::human(disk.dirty_bytes),
                DiskMode::Full | DiskMode::Scan => "-".to_owned(),
            };
            table.row([
                disk.target.clone(),
                size::human(disk.size),
                mode_word(disk.mode).to_owned(),
                changed,
                size::human(disk.read_bytes),
                size::human(disk.reused_bytes),
                size::human(disk.new_bytes),
                size::human(disk.stored_bytes),
            ]);
        }
        table.write(out)
    }
}
