//! What `forget` says.

use std::io::{self, Write};

use cairn_engine::id::SnapshotId;
use jiff::Timestamp;
use serde::Serialize;

use super::table::Table;
use super::{Report, time};

/// Snapshots that were forgotten, or would be.
#[derive(Debug, Serialize)]
pub struct ForgetReport {
    /// Whether this is only the plan.
    pub dry_run: bool,
    /// For how many seconds forgotten snapshots rest.
    pub grace_seconds: u64,
    /// Until when they can be brought back at least.
    #[serde(serialize_with = "super::time::rfc3339_or_null")]
    pub kept_until: Option<Timestamp>,
    /// The snapshots.
    pub forgotten: Vec<ForgottenSnapshot>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct ForgottenSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// The VM.
    pub vm: String,
    /// The point in time that its disks show.
    #[serde(serialize_with = "super::time::rfc3339")]
    pub time: Timestamp,
    /// Whether it is the newest of its VM that is not forgotten.
    pub is_newest: bool,
}

impl Report for ForgetReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let verb = if self.dry_run {
            "would forget"
        } else {
            "forgot"
        };
        let mut table = Table::new(&["ID", "TIME", "VM", ""]);
        for snapshot in &self.forgotten {
            table.row([
                snapshot.id.short(),
                time::local(snapshot.time),
                snapshot.vm.clone(),
                match snapshot.is_newest {
                    true => "the newest".to_owned(),
                    false => String::new(),
                },
            ]);
        }
        writeln!(out, "{verb} {} snapshots", self.forgotten.len())?;
        table.write(out)?;
        match self
            .kept_until
            .filter(|_| !self.dry_run && self.grace_seconds > 0)
        {
            None => Ok(()),
            Some(until) => {
                let until = time::local(until);
                writeln!(out, "`cairn undelete` brings them back until {until}")
            }
        }
    }
}
