//! What `verify` says.

use std::io::{self, Write};

use cairn_engine::id::SnapshotId;
use cairn_engine::verify;
use serde::Serialize;

use super::table::printable;
use super::{Report, size};

/// What was looked at, and what was wrong with it.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    /// Snapshots whose trees were walked.
    pub snapshots: u64,
    /// Packs that were looked at.
    pub packs: u64,
    /// Stored bytes that were read back and hashed.
    pub checked_bytes: u64,
    /// Everything that is not as it should be.
    pub errors: Vec<Damage>,
}

/// One damaged object.
#[derive(Debug, Serialize)]
pub struct Damage {
    /// The object, as a path below the repository's root.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Whom it hurts.
    pub hurts: Vec<Hurt>,
}

/// A range of a snapshot's disk that cannot be restored.
#[derive(Debug, Serialize)]
pub struct Hurt {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The VM.
    pub vm: String,
    /// The disk's name in the VM, or the file's name.
    pub target: String,
    /// Whether it is a file that was kept with the disks.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_file: bool,
    /// Offset in it of the first byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Ranges listed for one object; JSON has them all.
const HURTS_SHOWN_MAX: usize = 10;

impl Damage {
    /// Takes over a fault that the engine found.
    pub fn of(fault: verify::Fault) -> Self {
        let hurt = |hurt: verify::Hurt| Hurt {
            snapshot: hurt.snapshot,
            vm: hurt.vm,
            target: hurt.target,
            is_file: hurt.is_file,
            offset: hurt.range.start,
            length: hurt.range.end - hurt.range.start,
        };
        Self {
            object: fault.object,
            problem: fault.message,
            hurts: fault.hurts.into_iter().map(hurt).collect(),
        }
    }
}

impl VerifyReport {
    /// Returns what the engine found, as it is printed.
    pub fn of(report: verify::VerifyReport) -> Self {
        Self {
            snapshots: report.snapshots,
            packs: report.packs,
            checked_bytes: report.checked_bytes,
            errors: report.faults.into_iter().map(Damage::of).collect(),
        }
    }
}

impl Report for VerifyReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        write_damage(out, "damaged", &self.errors)?;
        let checked = size::human(self.checked_bytes);
        write!(
            out,
            "{} snapshots, {} packs, {checked} read and checked: ",
            self.snapshots, self.packs
        )?;
        match self.errors.len() {
            0 => writeln!(out, "no damage"),
            1 => writeln!(out, "1 damaged object"),
            count => writeln!(out, "{count} damaged objects"),
        }
    }
}

/// Writes damaged objects, with whom they hurt.
pub fn write_damage(out: &mut dyn Write, what: &str, damages: &[Damage]) -> io::Result<()> {
    for damage in damages {
        writeln!(
            out,
            "{what}: {}: {}",
            damage.object,
            printable(damage.problem.clone())
        )?;
        for hurt in damage.hurts.iter().take(HURTS_SHOWN_MAX) {
            let (id, vm) = (hurt.snapshot.short(), printable(hurt.vm.clone()));
            let (target, offset) = (printable(hurt.target.clone()), hurt.offset);
            let kind = if hurt.is_file { "file " } else { "" };
            let length = size::exact(hurt.length);
            writeln!(
                out,
                "  hurts {id} of {vm}: {kind}{target} at offset {offset}, {length}"
            )?;
        }
        if damage.hurts.len() > HURTS_SHOWN_MAX {
            let more = damage.hurts.len() - HURTS_SHOWN_MAX;
            writeln!(out, "  and {more} more ranges (--json lists them)")?;
        }
    }
    Ok(())
}
