//! What `mount` and `umount` say.

use std::io::{self, Write};
use std::path::PathBuf;

use cairn_engine::id::SnapshotId;
use serde::Serialize;

use super::Report;
use super::table::Table;

/// What is mounted, once it is ready.
#[derive(Debug, Serialize)]
pub struct MountReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The folder that was named.
    pub directory: PathBuf,
    /// The process that serves it.
    pub pid: u32,
    /// The file systems that are mounted.
    pub mounts: Vec<MountLine>,
    /// What else is in the disks.
    pub skipped: Vec<SkippedLine>,
}

/// A mounted file system.
#[derive(Debug, Serialize)]
pub struct MountLine {
    /// The volume, such as `vdap1`.
    pub volume: String,
    /// What it is called, such as `ext4`.
    pub kind: String,
    /// Where it is mounted.
    pub directory: PathBuf,
}

/// A volume that is not mounted.
#[derive(Debug, Serialize)]
pub struct SkippedLine {
    /// The volume.
    pub volume: String,
    /// What it holds.
    pub kind: String,
    /// Why it is not mounted.
    pub reason: String,
}

impl Report for MountReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (id, directory) = (self.snapshot.short(), self.directory.display());
        writeln!(out, "mounted snapshot {id} at {directory}, read-only")?;
        let mut table = Table::new(&["VOLUME", "HOLDS", "DIRECTORY"]);
        for mount in &self.mounts {
            table.row([
                mount.volume.clone(),
                mount.kind.clone(),
                mount.directory.display().to_string(),
            ]);
        }
        for skipped in &self.skipped {
            table.row([
                skipped.volume.clone(),
                skipped.kind.clone(),
                format!("not mounted: {}", skipped.reason),
            ]);
        }
        table.write(out)
    }
}

/// What was unmounted.
#[derive(Debug, Serialize)]
pub struct UmountReport {
    /// The folder.
    pub directory: PathBuf,
    /// Whether it is still served to those who use it.
    pub is_lazy: bool,
}

impl Report for UmountReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "unmounted {}", self.directory.display())
    }
}
