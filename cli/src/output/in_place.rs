//! What `restore --in-place` says.

use std::io::{self, Write};
use std::path::PathBuf;

use cairn_engine::domain::in_place::Plan;
use cairn_engine::id::SnapshotId;
use cairn_engine::repository::Snapshot;
use jiff::Timestamp;
use serde::Serialize;

use super::table::Table;
use super::{Report, size, time};

/// A restore in place that is about to be done.
#[derive(Debug, Serialize)]
pub struct InPlacePlan {
    /// Always: this is only the plan.
    pub dry_run: bool,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The point in time that its disks show.
    #[serde(serialize_with = "super::time::rfc3339")]
    pub time: Timestamp,
    /// The domain's name.
    pub domain: String,
    /// The disks that are set back.
    pub disks: Vec<PlannedDisk>,
    /// Its disks that stay as they are.
    pub left: Vec<String>,
}

/// One disk of it.
#[derive(Debug, Serialize)]
pub struct PlannedDisk {
    /// The disk's name in the VM.
    pub target: String,
    /// Its file.
    pub path: PathBuf,
    /// Its size in the snapshot, in bytes.
    pub size: u64,
}

impl InPlacePlan {
    /// Takes in what is about to be done to a domain.
    pub fn of(snapshot: &Snapshot, domain: &str, plan: Plan) -> Self {
        let disks = plan.disks.into_iter().map(|disk| PlannedDisk {
            target: disk.target,
            path: disk.path,
            size: disk.size,
        });
        Self {
            dry_run: true,
            snapshot: snapshot.id,
            time: snapshot.manifest.time,
            domain: domain.to_owned(),
            disks: disks.collect(),
            left: plan.left,
        }
    }
}

impl Report for InPlacePlan {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (domain, snapshot) = (&self.domain, self.snapshot.short());
        let time = time::local(self.time);
        writeln!(
            out,
            "would set disks of domain {domain} back to {snapshot}, {time}"
        )?;
        let mut table = Table::new(&["DISK", ">SIZE", "PATH"]);
        for disk in &self.disks {
            let path = disk.path.display().to_string();
            table.row([disk.target.clone(), size::human(disk.size), path]);
        }
        table.write(out)?;
        write_left(&self.left, out)
    }
}

/// Names disks that are not set back.
fn write_left(left: &[String], out: &mut dyn Write) -> io::Result<()> {
    for target in left {
        writeln!(out, "{target} is not among them, and stays as it is")?;
    }
    Ok(())
}

/// A domain whose disks were set back to a snapshot.
#[derive(Debug, Serialize)]
pub struct InPlaceReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The domain's name.
    pub domain: String,
    /// Its disks that were set back.
    pub disks: Vec<SetBackDisk>,
    /// Its disks that stay as they were.
    pub left: Vec<String>,
}

/// One disk of it. All lengths are bytes.
#[derive(Debug, Serialize)]
pub struct SetBackDisk {
    /// The disk's name in the VM.
    pub target: String,
    /// Its file.
    pub path: PathBuf,
    /// Its size.
    pub size: u64,
    /// What was compared with the snapshot; a bitmap proved the rest equal.
    pub compared_bytes: u64,
    /// What differed.
    pub changed_bytes: u64,
    /// What was written: beside the disk first, and then to the disk.
    pub written_bytes: u64,
    /// Why all of it was compared, where it was.
    pub doubt: Option<String>,
}

impl Report for InPlaceReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (domain, snapshot) = (&self.domain, self.snapshot.short());
        match self.left.is_empty() {
            true => writeln!(out, "domain {domain} is as in snapshot {snapshot}")?,
            false => writeln!(
                out,
                "disks of domain {domain} are as in snapshot {snapshot}"
            )?,
        }
        let mut table = Table::new(&["DISK", ">SIZE", ">COMPARED", ">CHANGED", "PATH"]);
        for disk in &self.disks {
            table.row([
                disk.target.clone(),
                size::human(disk.size),
                size::human(disk.compared_bytes),
                size::human(disk.changed_bytes),
                disk.path.display().to_string(),
            ]);
        }
        table.write(out)?;
        for disk in &self.disks {
            if let Some(doubt) = &disk.doubt {
                writeln!(out, "all of {} was compared: {doubt}", disk.target)?;
            }
        }
        write_left(&self.left, out)
    }
}
