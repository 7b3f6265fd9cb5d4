//! What `ls` says of the disks of a snapshot.

use std::io::{self, Write};

use cairn_engine::guest::open::{Area, DiskLayout};
use cairn_engine::id::SnapshotId;
use serde::Serialize;

use super::table::Table;
use super::{Report, size};
use crate::files::described;

/// The disks of a snapshot, or one of them, with what they hold.
#[derive(Debug, Serialize)]
pub struct LayoutReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its disks.
    pub disks: Vec<DiskReport>,
}

/// One disk. All lengths are bytes.
#[derive(Debug, Serialize)]
pub struct DiskReport {
    /// The disk's name in the VM.
    pub target: String,
    /// Its size.
    pub size: u64,
    /// The kind of its partition table.
    pub table: Option<&'static str>,
    /// Its parts.
    pub parts: Vec<PartReport>,
}

/// A partition, a logical volume, or all of a disk.
#[derive(Debug, Serialize)]
pub struct PartReport {
    /// Its name as it is typed after `SNAPSHOT:`.
    pub place: String,
    /// Its size.
    pub size: u64,
    /// What it holds, by the name that is in use for it.
    pub content: &'static str,
    /// Its label.
    pub label: Option<String>,
    /// Whether its files can be read.
    pub readable: bool,
    /// Why it cannot be read, if something is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl DiskReport {
    /// Describes a disk.
    pub fn of(disk: &DiskLayout) -> Self {
        let part = |area: &Area| PartReport {
            place: format!("{}{}", disk.target, area.name),
            size: area.size,
            content: area.content.name(),
            label: area.label.clone(),
            readable: area.content.is_file_system() && area.error().is_none(),
            problem: area.error().map(|error| described(error)),
        };
        Self {
            target: disk.target.clone(),
            size: disk.size,
            table: disk.table.map(|table| table.name()),
            parts: disk.areas.iter().map(part).collect(),
        }
    }
}

impl Report for LayoutReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["PLACE", ">SIZE", "CONTENT", "LABEL"]);
        for disk in &self.disks {
            if let Some(kind) = disk.table {
                let kind = format!("{kind} table");
                let size = size::human(disk.size);
                table.row([disk.target.clone(), size, kind, String::new()]);
            }
            for part in &disk.parts {
                let content = match &part.problem {
                    Some(problem) => problem.clone(),
                    None => part.content.to_owned(),
                };
                let label = part.label.clone().unwrap_or_default();
                table.row([part.place.clone(), size::human(part.size), content, label]);
            }
        }
        table.write(out)
    }
}
