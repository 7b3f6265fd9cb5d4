//! What `verify` says.

use std::collections::HashSet;
use std::io::{self, Write};

use cairn_engine::id::SnapshotId;
use cairn_engine::verify;
use jiff::Timestamp;
use serde::Serialize;

use super::table::printable;
use super::{Report, size, time};

/// What was looked at, and what was wrong with it.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    /// Snapshots whose trees were walked.
    pub snapshots: u64,
    /// Packs that were looked at.
    pub packs: u64,
    /// Stored bytes that were read back and hashed.
    pub checked_bytes: u64,
    /// Whether stored bytes were compared with their names only, and nothing was decoded.
    pub stored_only: bool,
    /// Packs read without parity, where the repository's settings want it.
    pub without_parity: u64,
    /// Manifests, notes and key slots that were looked at, where nothing was decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
    /// Whether all that snapshots refer to was looked for.
    pub references_checked: bool,
    /// How much of the packs was read, now and before.
    pub coverage: Coverage,
    /// Everything that is not as it should be.
    pub errors: Vec<Damage>,
}

/// How much of what is to be verified was read, and when.
#[derive(Debug, Serialize)]
pub struct Coverage {
    /// Packs that are to be verified.
    pub packs: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Packs that were read from end to end now.
    pub read_packs: u64,
    /// Their stored bytes.
    pub read_bytes: u64,
    /// Packs that were never read and found whole, as far as is remembered.
    pub never_packs: u64,
    /// Their stored bytes.
    pub never_bytes: u64,
    /// Since when all others were read and found whole at least once.
    #[serde(serialize_with = "time::rfc3339_or_null")]
    pub oldest: Option<Timestamp>,
}

impl From<verify::Coverage> for Coverage {
    fn from(coverage: verify::Coverage) -> Self {
        Self {
            packs: coverage.packs,
            bytes: coverage.bytes,
            read_packs: coverage.read_packs,
            read_bytes: coverage.read_bytes,
            never_packs: coverage.never_packs,
            never_bytes: coverage.never_bytes,
            oldest: coverage.oldest,
        }
    }
}

impl Coverage {
    /// Writes a line, unless everything was read now.
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.read_packs >= self.packs {
            return Ok(());
        }
        let now = share(self.read_bytes, self.bytes);
        write!(out, "read {now} % of {}; ", size::human(self.bytes))?;
        match (self.oldest.map(since), self.never_bytes) {
            (None, _) => writeln!(out, "nothing else has been read yet"),
            (Some(since), 0) => writeln!(out, "all of it was read since {since}"),
            (Some(since), never) => {
                let never = share(never, self.bytes);
                writeln!(
                    out,
                    "{never} % has not been read yet, the rest since {since}"
                )
            }
        }
    }
}

/// Returns a share in percent: neither 0 nor 100 but where it is nothing or everything.
fn share(part: u64, whole: u64) -> u64 {
    match part {
        0 => 0,
        part if part >= whole => 100,
        part => {
            let percent = u128::from(part) * 100 / u128::from(whole);
            u64::try_from(percent).unwrap_or(99).clamp(1, 99)
        }
    }
}

/// Writes a moment and how long ago it was.
fn since(time: Timestamp) -> String {
    let days = Timestamp::now().duration_since(time).as_hours() / 24;
    let time = time::local(time);
    match days {
        ..1 => time,
        1 => format!("{time}, a day ago"),
        days => format!("{time}, {days} days ago"),
    }
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
    pub fn of(report: verify::VerifyReport, stored_only: bool) -> Self {
        Self {
            snapshots: report.snapshots,
            packs: report.packs,
            checked_bytes: report.checked_bytes,
            stored_only,
            without_parity: report.without_parity,
            documents: stored_only.then_some(report.documents),
            references_checked: !stored_only && !report.is_cut,
            coverage: report.coverage.into(),
            errors: report.faults.into_iter().map(Damage::of).collect(),
        }
    }
}

impl VerifyReport {
    /// Says what can be done about damage.
    fn write_ways_out(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.errors.is_empty() {
            return Ok(());
        }
        writeln!(out, "`cairn repair` mends what can be mended")?;
        let hurts = || self.errors.iter().flat_map(|damage| &damage.hurts);
        let Some(hurt) = hurts().find(|hurt| !hurt.is_file) else {
            return Ok(());
        };
        let snapshots: HashSet<_> = hurts().map(|hurt| hurt.snapshot).collect();
        let of = match snapshots.len() {
            1 => String::new(),
            count => format!(", and so for each of the {count} snapshots that are hurt"),
        };
        let id = hurt.snapshot.short();
        writeln!(
            out,
            "`cairn restore {id} --to DIR/ --salvage` writes all of it that is whole, and names \
             the guest's files that are not{of}"
        )
    }
}

impl Report for VerifyReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        write_damage(out, "damaged", &self.errors)?;
        let checked = size::human(self.checked_bytes);
        match self.documents {
            None => write!(out, "{} snapshots, ", self.snapshots)?,
            Some(documents) => write!(out, "{documents} documents, ")?,
        }
        write!(out, "{} packs, {checked} read and checked: ", self.packs)?;
        match self.errors.len() {
            0 => writeln!(out, "no damage")?,
            1 => writeln!(out, "1 damaged object")?,
            count => writeln!(out, "{count} damaged objects")?,
        }
        self.write_ways_out(out)?;
        self.coverage.write(out)?;
        if self.without_parity > 0 {
            let count = self.without_parity;
            writeln!(out, "{count} packs have no parity; `cairn repair` makes it")?;
        }
        if !self.stored_only && !self.references_checked {
            writeln!(
                out,
                "there was no time to look whether anything is missing altogether; \
                 `cairn verify --metadata-only` does"
            )?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_everything_is_100_percent() {
        assert_eq!(share(0, 0), 0);
        assert_eq!(share(1, u64::MAX), 1);
        assert_eq!(share(34, 100), 34);
        assert_eq!(share(u64::MAX - 1, u64::MAX), 99);
        assert_eq!(share(7, 7), 100);
    }
}
