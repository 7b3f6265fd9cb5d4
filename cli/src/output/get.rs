//! What `get` says.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use cairn_engine::id::SnapshotId;
use serde::Serialize;

use super::{Report, size};
use crate::files::extract::Summary;

/// Files that were fetched.
#[derive(Debug, Serialize)]
pub struct GetReport {
    snapshot: SnapshotId,
    /// What was asked for, without the snapshot.
    place: String,
    /// Where it is now.
    path: PathBuf,
    files: u64,
    folders: u64,
    symlinks: u64,
    hard_links: u64,
    special: u64,
    /// Bytes of content; the rest of the files are holes.
    bytes: u64,
    /// Files that are not there or not as they were, and attributes that were refused.
    problems: u64,
    /// Extended attributes that the system refused to set, by name.
    refused_attributes: BTreeMap<String, u64>,
    /// Files whose owner only root could have set.
    owners_not_set: u64,
}

impl GetReport {
    /// Describes what was written.
    pub fn new(snapshot: SnapshotId, place: String, path: PathBuf, summary: Summary) -> Self {
        Self {
            snapshot,
            place,
            path,
            files: summary.files,
            folders: summary.folders,
            symlinks: summary.symlinks,
            hard_links: summary.hard_links,
            special: summary.special,
            bytes: summary.bytes,
            problems: summary.problems,
            refused_attributes: summary.refused,
            owners_not_set: summary.owners_kept,
        }
    }

    /// Returns a line for each kind of attribute that was refused.
    pub fn refusals(&self) -> impl Iterator<Item = String> {
        self.refused_attributes
            .iter()
            .map(|(name, count)| format!("the attribute {name} could not be set on {count} files"))
    }
}

impl Report for GetReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let others = self.symlinks + self.hard_links + self.special;
        write!(
            out,
            "{}: {} files, {} folders, {others} links and special files, {}",
            self.path.display(),
            self.files,
            self.folders,
            size::human(self.bytes)
        )?;
        match self.problems {
            0 => writeln!(out),
            problems => writeln!(out, "; {problems} problems"),
        }
    }
}
