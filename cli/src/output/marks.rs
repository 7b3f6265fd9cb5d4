//! What `undelete`, `protect` and `unprotect` say.

use std::io::{self, Write};

use cairn_engine::id::SnapshotId;
use cairn_engine::repository::Snapshot;
use jiff::Timestamp;
use serde::Serialize;

use super::table::Table;
use super::{Report, time};

/// Snapshots of which something was noted.
#[derive(Debug, Serialize)]
pub struct MarkedReport {
    /// What, in words.
    #[serde(skip)]
    words: &'static str,
    /// The snapshots.
    pub snapshots: Vec<MarkedSnapshot>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct MarkedSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// The VM.
    pub vm: String,
    /// The point in time that its disks show.
    #[serde(serialize_with = "super::time::rfc3339")]
    pub time: Timestamp,
}

impl MarkedReport {
    /// Returns what was done, in words such as `protected`, and with which snapshots.
    pub fn of(words: &'static str, snapshots: &[&Snapshot]) -> Self {
        let marked = snapshots.iter().map(|snapshot| MarkedSnapshot {
            id: snapshot.id,
            vm: snapshot.manifest.vm.clone(),
            time: snapshot.manifest.time,
        });
        Self {
            words,
            snapshots: marked.collect(),
        }
    }
}

impl Report for MarkedReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["ID", "TIME", "VM"]);
        for snapshot in &self.snapshots {
            table.row([
                snapshot.id.short(),
                time::local(snapshot.time),
                snapshot.vm.clone(),
            ]);
        }
        writeln!(out, "{}:", self.words)?;
        table.write(out)
    }
}
