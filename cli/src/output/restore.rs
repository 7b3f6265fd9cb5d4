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

/// Writes disks as a table.
fn write_disks(disks: &[RestoredDisk], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&["DISK", ">SIZE", ">WRITTEN", "PATH"]);
    for disk in disks {
        table.row([
            disk.target.clone(),
            size::human(disk.size),
            size::human(disk.written_bytes),
            disk.path.display().to_string(),
        ]);
    }
    table.write(out)
}

impl Report for RestoreReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "restored snapshot {}", self.snapshot.short())?;
        write_disks(&self.disks, out)
    }
}

/// A snapshot that was restored to a domain.
#[cfg(feature = "libvirt")]
#[derive(Debug, Serialize)]
pub struct DomainReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The domain's name.
    pub domain: String,
    /// The domain's UUID.
    pub uuid: String,
    /// Its disks.
    pub disks: Vec<RestoredDisk>,
    /// Its other files.
    pub files: Vec<PathBuf>,
    /// What it has no more.
    pub dropped: Vec<String>,
    /// Whether it was started.
    pub started: bool,
}

#[cfg(feature = "libvirt")]
impl Report for DomainReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (snapshot, domain, uuid) = (self.snapshot.short(), &self.domain, &self.uuid);
        writeln!(
            out,
            "restored snapshot {snapshot} to domain {domain}, {uuid}"
        )?;
        write_disks(&self.disks, out)?;
        for dropped in &self.dropped {
            writeln!(out, "left out: {dropped}")?;
        }
        if self.started {
            writeln!(out, "{domain} is started")?;
        }
        Ok(())
    }
}
