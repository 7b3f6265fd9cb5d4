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
    /// What is lost, where something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salvaged: Option<SalvageReport>,
}

/// What could not be restored.
#[derive(Debug, Serialize)]
pub struct SalvageReport {
    /// The disks that are incomplete.
    pub losses: Vec<Loss>,
    /// Files of the guest that are hurt, the first thousand.
    pub files: Vec<HurtReport>,
    /// How many there are.
    pub file_count: u64,
    /// The file that lists all of them.
    pub list: PathBuf,
}

/// What is lost of a disk.
#[derive(Debug, Serialize)]
pub struct Loss {
    /// The disk's name in the VM.
    pub target: String,
    /// The file that says where.
    pub map: PathBuf,
    /// How much.
    pub lost_bytes: u64,
    /// Where.
    pub ranges: Vec<LostRange>,
}

/// Bytes of a disk that are lost.
#[derive(Debug, Serialize)]
pub struct LostRange {
    /// Offset of the first of them.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl LostRange {
    /// Takes a range over.
    pub fn of(range: &std::ops::Range<u64>) -> Self {
        Self {
            offset: range.start,
            length: range.end - range.start,
        }
    }
}

/// A file of the guest that lost bytes belong to.
#[derive(Debug, Serialize)]
pub struct HurtReport {
    /// Its place, as `cairn get` takes it behind `SNAPSHOT:`.
    pub place: String,
    /// Whether it is a folder, or all of a part, that cannot be read.
    pub is_folder: bool,
}

/// Files shown; JSON and the list have more.
const FILES_SHOWN_MAX: usize = 20;

impl SalvageReport {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for loss in &self.losses {
            let (target, bytes) = (&loss.target, size::human(loss.lost_bytes));
            let (ranges, map) = (loss.ranges.len(), loss.map.display());
            writeln!(
                out,
                "lost of {target}: {bytes} in {ranges} ranges: see {map}"
            )?;
        }
        if self.file_count == 0 {
            return writeln!(out, "no file is hurt, as far as file systems can be read");
        }
        for file in self.files.iter().take(FILES_SHOWN_MAX) {
            writeln!(out, "hurt: {}", file.place)?;
        }
        let list = self.list.display();
        match self.file_count.saturating_sub(FILES_SHOWN_MAX as u64) {
            0 => Ok(()),
            more => writeln!(out, "and {more} more files: see {list}"),
        }
    }
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
        let what = match self.salvaged {
            None => "snapshot",
            Some(_) => "what is whole of snapshot",
        };
        writeln!(out, "restored {what} {}", self.snapshot.short())?;
        write_disks(&self.disks, out)?;
        match &self.salvaged {
            None => Ok(()),
            Some(salvaged) => salvaged.write(out),
        }
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
