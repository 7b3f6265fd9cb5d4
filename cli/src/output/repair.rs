//! What `cairn repair` did.

use std::io::{self, Write};

use cairn_engine::gc::Waiting;
use cairn_engine::id::SnapshotId;
use cairn_engine::repair::{DamagedPack, RepairReport};
use cairn_engine::storage::Name;
use jiff::Timestamp;
use serde::Serialize;

use super::Report;
use super::gc::Writer;
use super::table::printable;
use super::verify::{Damage, write_damage};
use super::{size, time};

/// What a repair found and did.
#[derive(Debug, Serialize)]
pub struct Repaired {
    /// Manifests and notes that were put back from elsewhere.
    pub healed_documents: Vec<String>,
    /// Snapshots of this repository that are elsewhere, and not here.
    pub absent_snapshots: Vec<Absent>,
    /// Whether the index was built anew.
    pub rebuilt_index: bool,
    /// Packs that were read.
    pub packs: u64,
    /// Stored bytes that were read of them.
    pub checked_bytes: u64,
    /// Packs that were damaged, and were rebuilt from their parity.
    pub rebuilt_packs: Vec<Pack>,
    /// Packs whose parity was missing or damaged, and was made anew.
    pub renewed_parity: Vec<String>,
    /// Packs that are damaged still.
    pub damaged_packs: Vec<Pack>,
    /// Whether they were set aside, to `damaged/`.
    pub set_aside: bool,
    /// Chunks and recipe nodes that were whole in them, and were moved.
    pub salvaged: u64,
    /// Chunks and recipe nodes that were damaged in one pack and are whole in another.
    pub copied: u64,
    /// Chunks and recipe nodes that came from elsewhere.
    pub healed: u64,
    /// Packs written.
    pub written_packs: u64,
    /// Stored bytes written.
    pub written_bytes: u64,
    /// Writers at work, because of which the damaged packs stay where they are.
    pub waiting_for: Vec<Writer>,
    /// What is still damaged or lost, and whom it hurts.
    pub remaining: Vec<Damage>,
    #[serde(skip)]
    writers: Vec<String>,
}

/// A snapshot that another repository has.
#[derive(Debug, Serialize)]
pub struct Absent {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its VM.
    pub vm: String,
    /// The point in time that its disks show.
    #[serde(serialize_with = "super::time::rfc3339")]
    pub time: Timestamp,
    /// The repository that has it.
    pub repository: String,
}

/// A damaged pack.
#[derive(Debug, Serialize)]
pub struct Pack {
    /// Its id.
    pub id: String,
    /// What is wrong with it.
    pub problem: String,
    /// Whether its footer can be read: else nothing can be taken out of it.
    pub readable: bool,
    /// Chunks and recipe nodes in it that are damaged.
    pub damaged: usize,
}

impl Pack {
    fn of(pack: DamagedPack) -> Self {
        Self {
            id: pack.id.to_hex(),
            problem: pack.problem,
            readable: pack.is_readable,
            damaged: pack.bad.len(),
        }
    }
}

impl Repaired {
    /// Puts together what is said.
    pub fn of(report: RepairReport) -> Self {
        let packs = |packs: Vec<DamagedPack>| packs.into_iter().map(Pack::of).collect();
        let absent = report.absent.into_iter().map(|absent| Absent {
            id: absent.id,
            vm: absent.vm,
            time: absent.time,
            repository: absent.donor,
        });
        let healed = report.healed_documents.iter();
        Self {
            healed_documents: healed.map(Name::path).collect(),
            absent_snapshots: absent.collect(),
            rebuilt_index: report.rebuilt_index,
            packs: report.packs,
            checked_bytes: report.checked_bytes,
            rebuilt_packs: packs(report.rebuilt),
            renewed_parity: report.renewed_parity.iter().map(|id| id.to_hex()).collect(),
            damaged_packs: packs(report.damaged),
            set_aside: report.is_set_aside,
            salvaged: report.salvaged,
            copied: report.copied,
            healed: report.healed,
            written_packs: report.written_packs,
            written_bytes: report.written_bytes,
            writers: report.waiting_for.iter().map(Waiting::to_string).collect(),
            waiting_for: report.waiting_for.iter().map(Writer::of).collect(),
            remaining: report.remaining.into_iter().map(Damage::of).collect(),
        }
    }
}

impl Repaired {
    /// Writes which snapshots could be had elsewhere, and how.
    fn write_absent(&self, out: &mut dyn Write) -> io::Result<()> {
        for absent in &self.absent_snapshots {
            let (id, time) = (absent.id.short(), time::local(absent.time));
            let vm = printable(absent.vm.clone());
            writeln!(out, "not here     {id} of {vm}, {time}")?;
        }
        if let Some(absent) = self.absent_snapshots.first() {
            let (id, folder) = (absent.id.short(), printable(absent.repository.clone()));
            writeln!(
                out,
                "             deleted here, or made there, and does not come back by itself: use\n\
                 {:13}`cairn -r {folder} restore {id} --to PATH`",
                ""
            )?;
        }
        Ok(())
    }
}

impl Report for Repaired {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for pack in &self.rebuilt_packs {
            let problem = printable(pack.problem.clone());
            writeln!(out, "rebuilt from its parity: {}: {problem}", pack.id)?;
        }
        for pack in &self.damaged_packs {
            let place = match self.set_aside {
                true => format!("damaged/{}", pack.id),
                false => format!("packs/{}/{}", pack.id.get(..2).unwrap_or_default(), pack.id),
            };
            writeln!(out, "{place}: {}", printable(pack.problem.clone()))?;
        }
        for document in &self.healed_documents {
            writeln!(out, "put back: {document}")?;
        }
        let checked = size::human(self.checked_bytes);
        writeln!(out, "read         {checked} in {} packs", self.packs)?;
        let (rebuilt, renewed) = (self.rebuilt_packs.len(), self.renewed_parity.len());
        if rebuilt + renewed > 0 {
            writeln!(
                out,
                "parity       {rebuilt} packs rebuilt from it, that of {renewed} made anew"
            )?;
        }
        let aside = match (self.damaged_packs.len(), self.set_aside) {
            (0, _) => "none".to_owned(),
            (count, true) => format!("{count} packs, set aside"),
            (count, false) => format!("{count} packs, which stay for now"),
        };
        writeln!(out, "damaged      {aside}")?;
        let written = size::human(self.written_bytes);
        writeln!(
            out,
            "moved        {} chunks and recipe nodes that were whole in them",
            self.salvaged
        )?;
        writeln!(
            out,
            "healed       {} by another pack, {} from elsewhere",
            self.copied, self.healed
        )?;
        writeln!(
            out,
            "written      {written} in {} packs",
            self.written_packs
        )?;
        for writer in &self.writers {
            writeln!(out, "at work      {}", printable(writer.clone()))?;
        }
        if !self.writers.is_empty() {
            return writeln!(out, "run `cairn repair` again when they have ended");
        }
        self.write_absent(out)?;
        write_damage(out, "lost", &self.remaining)?;
        match self.remaining.is_empty() {
            true => writeln!(out, "everything is whole"),
            false => Ok(()),
        }
    }
}

/// What was put back from the copies that this client keeps.
#[derive(Debug, Serialize)]
pub struct SettingsRepaired {
    /// Whether `config` was.
    pub config: bool,
    /// The key slots that were.
    pub keys: Vec<String>,
}

impl Report for SettingsRepaired {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.config {
            writeln!(out, "put back: config")?;
        }
        for key in &self.keys {
            writeln!(out, "put back: keys/{key}")?;
        }
        match self.config || !self.keys.is_empty() {
            true => Ok(()),
            false => writeln!(out, "config and key slots are whole"),
        }
    }
}

/// What became of the index.
#[derive(Debug, Serialize)]
pub struct IndexRepaired {
    /// Whether it was built anew.
    pub rebuilt_index: bool,
}

impl Report for IndexRepaired {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.rebuilt_index {
            true => writeln!(out, "the index was built anew"),
            false => writeln!(
                out,
                "another process is adding to the index: it stays as it is"
            ),
        }
    }
}
