//! What `backup` says.

use std::io::{self, Write};
use std::time::Duration;

use cairn_engine::backup::BackupDone;
use cairn_engine::format::domain::{Consistency, LeftOut, Method};
use cairn_engine::format::manifest::{DiskMode, DiskRecord};
use cairn_engine::id::{NodeId, SnapshotId};
use serde::Serialize;

use super::table::{Table, printable};
use super::{Report, size, time};

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
    /// How long it took.
    pub duration_ms: u64,
    /// What was not as it should be: disks that were read whole against expectation, and why.
    pub warnings: Vec<String>,
    /// The libvirt domain, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainReport>,
}

/// What is said of a domain that was backed up.
#[derive(Debug, Serialize)]
pub struct DomainReport {
    /// Its UUID.
    pub uuid: String,
    /// The checkpoint that the next backup counts from.
    pub checkpoint: Option<String>,
    /// How the disks were held at one moment: `pull`, `snapshot` or `offline`.
    pub method: Method,
    /// What they show: `crash`, `agent`, `suspend`, `offline` or `memory`.
    pub consistency: Consistency,
    /// How long the guest was held still.
    pub frozen_ms: Option<u64>,
    /// Disks that are left out as a matter of course, or by the user's wish.
    pub left_out: Vec<LeftOut>,
    /// Disks that should be in the snapshot, and cannot be read.
    pub unreadable: Vec<LeftOut>,
    /// What else belongs to the domain and is not in the snapshot.
    pub not_saved: Vec<String>,
}

impl BackupReport {
    /// Returns what a backup did.
    pub fn of(done: &BackupDone, took: Duration) -> Self {
        let warnings = done.warnings.iter();
        Self {
            snapshot: done.snapshot,
            vm: done.manifest.vm.clone(),
            parent: done.manifest.parent,
            disks: done.manifest.disks.iter().map(DiskReport::of).collect(),
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            warnings: warnings
                .map(|w| format!("disk {}: {}", w.target, w.doubt))
                .chain(done.manifest.disks.iter().filter_map(torn_words))
                .collect(),
            domain: None,
        }
    }
}

impl BackupReport {
    /// Returns what was read of all disks.
    pub fn read_bytes(&self) -> u64 {
        self.disks
            .iter()
            .map(|disk| disk.read_bytes)
            .fold(0, u64::saturating_add)
    }

    /// Returns what storing all disks took.
    pub fn stored_bytes(&self) -> u64 {
        self.disks
            .iter()
            .map(|disk| disk.stored_bytes)
            .fold(0, u64::saturating_add)
    }
}

/// Says how long something took, and how fast it was.
fn took(duration_ms: u64, read: u64, stored: u64) -> String {
    let (seconds, rest) = (duration_ms / 1000, duration_ms % 1000);
    let time = match seconds {
        0..10 => format!("{seconds}.{} s", rest / 100),
        _ => time::duration(seconds),
    };
    let rate = size::approximate(read as f64 * 1000.0 / duration_ms.max(1) as f64);
    let (read, stored) = (size::human(read), size::human(stored));
    format!("took {time}: {read} read, {rate}/s; {stored} stored")
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
    /// Why it was not read by its changes alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// That it was written to while it was read, and how that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn: Option<String>,
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
            doubt: disk.doubt.clone(),
            torn: disk.torn.clone(),
        }
    }
}

/// Says of a disk that it is of no one moment, if it is.
pub fn torn_words(disk: &DiskRecord) -> Option<String> {
    let (target, what) = (&disk.target, disk.torn.as_ref()?);
    Some(format!(
        "disk {target} was written to while it was read, and is of no one moment: {what}"
    ))
}

/// Says what the disks of a domain show.
pub fn consistency_words(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Crash => "as after a power cut",
        Consistency::Agent => "file systems frozen by the guest agent",
        Consistency::Suspend => "guest suspended",
        Consistency::Offline => "domain off",
        Consistency::Memory => "with the guest's memory",
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
        table.write(out)?;
        let (read, stored) = (self.read_bytes(), self.stored_bytes());
        writeln!(out, "{}", took(self.duration_ms, read, stored))?;
        match &self.domain {
            Some(domain) => domain.write_text(out),
            None => Ok(()),
        }
    }
}

impl DomainReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "consistency: {}", consistency_words(self.consistency))?;
        match self.frozen_ms {
            Some(held) => writeln!(out, ", held still for {held} ms")?,
            None => writeln!(out)?,
        }
        for out_of in &self.left_out {
            let (target, reason) = (printable(out_of.target.clone()), &out_of.reason);
            writeln!(out, "left out: {target}: {reason}")?;
        }
        for not_saved in &self.not_saved {
            writeln!(out, "not saved: {}", printable(not_saved.clone()))?;
        }
        Ok(())
    }
}
