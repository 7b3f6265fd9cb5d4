//! What `diff` says.

use std::io::{self, Write};

use cairn_engine::id::SnapshotId;
use serde::Serialize;

use super::table::Table;
use super::{Report, size};

/// Where two snapshots differ.
#[derive(Debug, Serialize)]
pub struct DiffReport {
    /// The one snapshot.
    pub a: SnapshotId,
    /// The other.
    pub b: SnapshotId,
    /// Extents that differ, by disk and offset.
    pub extents: Vec<DiffExtent>,
}

/// A run of bytes whose chunks differ.
#[derive(Debug, Serialize)]
pub struct DiffExtent {
    /// The disk's name in the VM.
    pub target: String,
    /// Disk offset of the first byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl Report for DiffReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let lengths = self.extents.iter().map(|extent| extent.length);
        let total = lengths.fold(0, u64::saturating_add);
        if !self.extents.is_empty() {
            let mut table = Table::new(&["DISK", ">OFFSET", ">LENGTH"]);
            for extent in &self.extents {
                let (offset, length) = (extent.offset.to_string(), size::exact(extent.length));
                table.row([extent.target.clone(), offset, length]);
            }
            table.write(out)?;
        }
        let (a, b, total) = (self.a.short(), self.b.short(), size::human(total));
        writeln!(
            out,
            "{a} and {b} differ in {} extents, {total}",
            self.extents.len()
        )
    }
}
