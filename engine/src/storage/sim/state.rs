//! What all processes of a simulated disk share, and how a call changes it or fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rustix::io::Errno;

use super::disk::{Disk, Inode, Op};
use super::fault::{Fault, FaultKind, FaultOn, Lie};
use super::random::Random;
use crate::storage::fs::LockMode;

pub(super) struct Held {
    pub(super) handle: u64,
    pub(super) process: u32,
    pub(super) mode: LockMode,
}

pub(super) struct State {
    pub(super) seed: u64,
    /// The disk before the first logged change.
    pub(super) base: Disk,
    pub(super) disk: Disk,
    pub(super) log: Vec<Op>,
    pub(super) reads: usize,
    pub(super) faults: Vec<Fault>,
    pub(super) lie: Option<Lie>,
    pub(super) late: Option<Inode>,
    pub(super) random: Random,
    pub(super) handles: u64,
    pub(super) processes: u32,
    pub(super) dead: BTreeSet<u32>,
    pub(super) locks: BTreeMap<Inode, Vec<Held>>,
}

impl State {
    pub(super) fn kill(&mut self, process: u32) {
        self.dead.insert(process);
        for held in self.locks.values_mut() {
            held.retain(|held| held.process != process);
        }
    }

    /// Returns how the call of this number fails, if it does.
    pub(super) fn fault(
        &mut self,
        process: u32,
        on: FaultOn,
        number: usize,
    ) -> io::Result<Option<FaultKind>> {
        if self.dead.contains(&process) {
            return Err(Errno::SRCH.into());
        }
        let due = |fault: &&Fault| {
            fault.on == on && (fault.at == number || fault.lasting && fault.at < number)
        };
        let kind = self.faults.iter().find(due).map(|fault| fault.kind);
        if kind == Some(FaultKind::Death) {
            // One process dies of it; the call does not happen, and its number comes again.
            self.faults.retain(|fault| fault.lasting || !due(&fault));
            self.kill(process);
            return Err(Errno::SRCH.into());
        }
        Ok(kind)
    }

    pub(super) fn change(&mut self, process: u32, op: Op) -> io::Result<()> {
        if let Some(kind) = self.fault(process, FaultOn::Changes, self.log.len())? {
            return Err(self.fail(op, kind));
        }
        match (self.lie, &op) {
            (Some(Lie::FileSyncs), Op::SyncFile { .. })
            | (Some(Lie::FolderSyncs), Op::SyncFolder { .. }) => {
                self.log.push(Op::Nothing {
                    what: "ignored fsync",
                });
                return Ok(());
            }
            (Some(Lie::LateFileSyncs), Op::SyncFile { file }) => {
                self.late = Some(*file);
                self.log.push(Op::Nothing {
                    what: "put off fsync",
                });
                return Ok(());
            }
            _ => {}
        }
        let late = if matches!(op, Op::Rename { .. }) {
            self.late.take()
        } else {
            None
        };
        self.apply(op)?;
        late.map_or(Ok(()), |file| self.apply(Op::SyncFile { file }))
    }

    fn apply(&mut self, op: Op) -> io::Result<()> {
        let done = self.disk.apply(&op);
        self.log.push(if done.is_ok() {
            op
        } else {
            Op::Nothing { what: "refused" }
        });
        done
    }

    /// Does what is left of an operation that fails, and returns the reason.
    fn fail(&mut self, op: Op, kind: FaultKind) -> io::Error {
        let left = match op {
            Op::SyncFile { file } => Op::LoseFile { file },
            Op::SyncFolder { folder } => Op::LoseFolder { folder },
            Op::Append { file, mut bytes } if kind == FaultKind::Short => {
                bytes.truncate(bytes.len() / 2);
                Op::Append { file, bytes }
            }
            _ => Op::Nothing { what: "failed" },
        };
        match self.apply(left) {
            Err(err) => err,
            Ok(()) if kind == FaultKind::Io => Errno::IO.into(),
            Ok(()) => Errno::NOSPC.into(),
        }
    }
}
