//! What `snapshots` and `show` say.

use std::collections::BTreeMap;
use std::io::{self, Write};

use cairn_engine::format::domain::DomainRecord;
use cairn_engine::format::manifest::DiskMode;
use cairn_engine::id::{NodeId, SnapshotId};
use cairn_engine::repository::{Proof, Snapshot, SnapshotState};
use jiff::Timestamp;
use serde::Serialize;

use super::backup::{consistency_words, mode_word};
use super::table::{Table, printable};
use super::{Report, size, time};

/// The snapshots of a repository, oldest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct SnapshotsReport(pub Vec<SnapshotReport>);

/// One snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotReport {
    /// The snapshot.
    pub id: SnapshotId,
    /// The VM.
    pub vm: String,
    /// The point in time that its disks show.
    #[serde(serialize_with = "super::time::rfc3339")]
    pub time: Timestamp,
    /// The snapshot that it was computed against.
    pub parent: Option<SnapshotId>,
    /// Its disks.
    pub disks: Vec<SnapshotDisk>,
    /// Sum of the sizes of what is beside the disks, such as the guest's memory.
    pub files_size: u64,
    /// What of that is not in holes.
    pub files_data_bytes: u64,
    /// What the user says about it.
    pub tags: BTreeMap<String, String>,
    /// Whether it must not be forgotten.
    pub protected: bool,
    /// Whether something counts on it, such as a domain's checkpoint: `show` says what.
    pub pinned: bool,
    /// When it was last read without a finding, and how much of it.
    pub verified: Option<ShownVerify>,
    /// When it was tried, and how that ended, oldest first.
    pub proofs: Vec<ShownProof>,
}

/// That a snapshot was read without a finding.
#[derive(Debug, Clone, Serialize)]
pub struct ShownVerify {
    /// When.
    #[serde(serialize_with = "super::time::rfc3339")]
    pub time: Timestamp,
    /// How much of it.
    pub what: String,
}

/// A trial of a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct ShownProof {
    /// When.
    #[serde(serialize_with = "super::time::rfc3339")]
    pub time: Timestamp,
    /// Whether it was of use.
    pub passed: bool,
    /// What was done with it.
    pub what: String,
}

/// One disk of a snapshot. All lengths are bytes.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotDisk {
    /// The disk's name in the VM.
    pub target: String,
    /// The disk's size.
    pub size: u64,
    /// What is not in holes.
    pub data_bytes: u64,
    /// Chunk references.
    pub chunks: u64,
    /// How it was read.
    pub mode: DiskMode,
    /// Where it was read from.
    pub source: String,
    /// What storing it took at the time.
    pub stored_bytes: u64,
    /// Root of its recipe.
    pub recipe: NodeId,
    /// That it was written to while it was read, and how that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn: Option<String>,
}

impl SnapshotDisk {
    /// Returns its name, with a mark where it is of no one moment.
    fn marked(&self) -> String {
        match &self.torn {
            Some(_) => format!("{}(torn)", self.target),
            None => self.target.clone(),
        }
    }
}

/// Everything about one snapshot.
#[derive(Debug, Serialize)]
pub struct ShowReport {
    /// What a listing says of it.
    #[serde(flatten)]
    pub snapshot: SnapshotReport,
    /// The host that made it.
    pub host: String,
    /// The program that made it.
    pub program: String,
    /// What the source says about the VM.
    pub metadata: BTreeMap<String, String>,
    /// The libvirt domain, where it is one: how and when its disks were held still, and what is not
    /// in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainRecord>,
    /// Documents beside the disks, such as `nvram`.
    pub files: Vec<ShownFile>,
    /// What needs the snapshot, so that it cannot be forgotten.
    pub pins: Vec<String>,
}

/// A document beside the disks.
#[derive(Debug, Serialize)]
pub struct ShownFile {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

impl ShowReport {
    /// Returns what a snapshot's manifest and notes say.
    pub fn of(snapshot: &Snapshot) -> Self {
        let manifest = &snapshot.manifest;
        let files = manifest.files.iter().map(|file| ShownFile {
            name: file.name.clone(),
            size: file.size,
        });
        Self {
            snapshot: SnapshotReport::of(snapshot),
            host: manifest.host.clone(),
            program: manifest.program.clone(),
            metadata: manifest.metadata.clone(),
            domain: manifest.domain.clone(),
            files: files.collect(),
            pins: snapshot.state.pins.iter().cloned().collect(),
        }
    }

    /// Writes what is known of the domain, a line each.
    fn write_domain(&self, line: &mut dyn FnMut(&str, String) -> io::Result<()>) -> io::Result<()> {
        let Some(domain) = &self.domain else {
            return Ok(());
        };
        line(
            "domain",
            format!("{} of {}", domain.uuid, domain.hypervisor),
        )?;
        let checkpoint = domain.checkpoint.as_deref().unwrap_or("none");
        line("held", consistency_words(domain.consistency).to_owned())?;
        line("checkpoint", checkpoint.to_owned())?;
        for out in &domain.left_out {
            line("left out", format!("{}: {}", out.target, out.reason))?;
        }
        for text in &domain.not_saved {
            line("not saved", text.clone())?;
        }
        Ok(())
    }
}

impl ShownVerify {
    fn last(state: &SnapshotState) -> Option<Self> {
        let last = state.verified.iter().max_by_key(|(_, time)| **time);
        last.map(|(what, time)| Self {
            time: *time,
            what: what.clone(),
        })
    }
}

impl ShownProof {
    fn of(proof: &Proof) -> Self {
        Self {
            time: proof.time,
            passed: proof.passed,
            what: proof.what.clone(),
        }
    }
}

impl SnapshotReport {
    /// Returns what a snapshot's manifest says.
    pub fn of(snapshot: &Snapshot) -> Self {
        let manifest = &snapshot.manifest;
        let disks = manifest.disks.iter().map(|disk| SnapshotDisk {
            target: disk.target.clone(),
            size: disk.size,
            data_bytes: disk.data_bytes,
            chunks: disk.chunks,
            mode: disk.mode,
            source: disk.source.location.clone(),
            stored_bytes: disk.stored_bytes,
            recipe: disk.recipe,
            torn: disk.torn.clone(),
        });
        Self {
            id: snapshot.id,
            vm: manifest.vm.clone(),
            time: manifest.time,
            parent: manifest.parent,
            disks: disks.collect(),
            files_size: sum(manifest.files.iter().map(|file| file.size)),
            files_data_bytes: sum(manifest.files.iter().map(|file| file.data_bytes)),
            tags: manifest.tags.clone(),
            verified: ShownVerify::last(&snapshot.state),
            proofs: (snapshot.state.proofs.iter().map(ShownProof::of)).collect(),
            protected: snapshot.state.is_protected,
            pinned: !snapshot.state.pins.is_empty(),
        }
    }
}

impl Report for SnapshotsReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&[
            "ID", "TIME", "VM", "PARENT", "DISKS", ">SIZE", ">DATA", ">ADDED", "PROVED", "KEPT",
            "TAGS",
        ]);
        for snapshot in &self.0 {
            let of_disks = |value: fn(&SnapshotDisk) -> u64| sum(snapshot.disks.iter().map(value));
            let size = of_disks(|disk| disk.size).saturating_add(snapshot.files_size);
            let data = of_disks(|disk| disk.data_bytes).saturating_add(snapshot.files_data_bytes);
            let targets = snapshot.disks.iter().map(SnapshotDisk::marked);
            let targets: Vec<String> = targets.collect();
            table.row([
                snapshot.id.short(),
                time::local(snapshot.time),
                snapshot.vm.clone(),
                snapshot
                    .parent
                    .map_or("-".to_owned(), |parent| parent.short()),
                targets.join(","),
                size::human(size),
                size::human(data),
                size::human(of_disks(|disk| disk.stored_bytes)),
                match snapshot.proofs.last() {
                    None => "-",
                    Some(proof) if proof.passed => "yes",
                    Some(_) => "FAILED",
                }
                .to_owned(),
                snapshot.kept_line(),
                tags_line(&snapshot.tags),
            ]);
        }
        table.write(out)
    }
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

impl SnapshotReport {
    /// Says why it cannot be forgotten.
    fn kept_line(&self) -> String {
        match (self.protected, self.pinned) {
            (true, true) => "protected, pinned",
            (true, false) => "protected",
            (false, true) => "pinned",
            (false, false) => "",
        }
        .to_owned()
    }
}

fn tags_line(tags: &BTreeMap<String, String>) -> String {
    let tags: Vec<String> = tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    tags.join(" ")
}

impl Report for ShowReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let snapshot = &self.snapshot;
        let mut line = |name: &str, value: String| writeln!(out, "{name:<9} {}", printable(value));
        line("snapshot", snapshot.id.to_hex())?;
        line("vm", snapshot.vm.clone())?;
        line(
            "time",
            format!("{} ({})", time::local(snapshot.time), snapshot.time),
        )?;
        line(
            "parent",
            snapshot
                .parent
                .map_or("none".to_owned(), |parent| parent.to_hex()),
        )?;
        line("host", self.host.clone())?;
        line("program", self.program.clone())?;
        if !snapshot.tags.is_empty() {
            line("tags", tags_line(&snapshot.tags))?;
        }
        for (name, text) in &self.metadata {
            line(
                name,
                format!(
                    "{} (printed whole by --json)",
                    size::human(text.len() as u64)
                ),
            )?;
        }
        self.write_domain(&mut line)?;
        for file in &self.files {
            line("file", format!("{}, {}", file.name, size::human(file.size)))?;
        }
        for disk in &snapshot.disks {
            if let Some(what) = &disk.torn {
                line("torn", format!("{}: {what}", disk.target))?;
            }
        }
        if snapshot.protected {
            line("protected", "yes".to_owned())?;
        }
        for pin in &self.pins {
            line("pinned", pin.clone())?;
        }
        if let Some(verified) = &snapshot.verified {
            let time = time::local(verified.time);
            line("verified", format!("{time}: {}", verified.what))?;
        }
        for proof in &snapshot.proofs {
            let name = if proof.passed { "proved" } else { "FAILED" };
            line(name, format!("{}: {}", time::local(proof.time), proof.what))?;
        }
        writeln!(out)?;
        let mut table = Table::new(&[
            "DISK", ">SIZE", ">DATA", ">CHUNKS", "MODE", ">ADDED", "RECIPE", "SOURCE",
        ]);
        for disk in &snapshot.disks {
            table.row([
                disk.target.clone(),
                size::human(disk.size),
                size::human(disk.data_bytes),
                disk.chunks.to_string(),
                mode_word(disk.mode).to_owned(),
                size::human(disk.stored_bytes),
                disk.recipe.short(),
                disk.source.clone(),
            ]);
        }
        table.write(out)
    }
}
