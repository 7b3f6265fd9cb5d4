//! A process that sees a simulated disk, and what a test may do to both.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use super::calls::SimFile;
use super::disk::{Disk, Inode, Op};
use super::fault::{Fault, FaultOn, Lie};
use super::random::Random;
use super::state::State;
use crate::storage::atomic::lock;

/// A simulated file system, as one process sees it. Clones are the same process.
#[derive(Clone)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
    pub(super) process: u32,
}

impl SimFs {
    /// Makes an empty disk, and a process that sees it.
    pub fn new(seed: u64) -> Self {
        Self::with_disk(Disk::new(), seed)
    }

    fn with_disk(disk: Disk, seed: u64) -> Self {
        let state = State {
            seed,
            base: disk.clone(),
            disk,
            log: Vec::new(),
            reads: 0,
            faults: Vec::new(),
            lie: None,
            late: None,
            random: Random::new(&[seed]),
            handles: 0,
            processes: 1,
            dead: BTreeSet::new(),
            locks: BTreeMap::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            process: 0,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Starts another process that sees the same disk.
    pub fn spawn(&self) -> Self {
        let mut state = self.state();
        let process = state.processes;
        state.processes += 1;
        drop(state);
        Self {
            state: Arc::clone(&self.state),
            process,
        }
    }

    /// Ends this process at once, as `kill -9` does: its locks are free, and nothing that its
    /// objects still do when they are dropped reaches the disk.
    pub fn kill(&self) {
        self.state().kill(self.process);
    }

    /// Returns how many calls have tried to change the disk since it was made.
    pub fn op_count(&self) -> usize {
        self.state().log.len()
    }

    /// Returns how many calls have looked at the disk since it was made.
    pub fn read_count(&self) -> usize {
        self.state().reads
    }

    /// Describes the changes so far, one line each.
    pub fn log(&self) -> Vec<String> {
        let shorten = |op: &Op| match op {
            Op::Append { file, bytes } => {
                format!("Append {{ file: {file}, len: {} }}", bytes.len())
            }
            Op::Nothing { what } => (*what).to_owned(),
            op => format!("{op:?}"),
        };
        self.state().log.iter().map(shorten).collect()
    }

    /// Adds a failure to come.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Takes back all failures to come. What a failure has lost stays lost.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Breaks a promise from now on.
    pub fn pretend(&self, lie: Option<Lie>) {
        self.state().lie = lie;
    }

    /// Returns a disk as it may be after a power cut that comes after the first `after` changes,
    /// seen by a new process; different seeds leave different parts of what was not durable.
    ///
    /// # Panics
    ///
    /// Panics if there were fewer changes.
    #[must_use]
    pub fn crash_image(&self, after: usize, seed: u64) -> Self {
        let state = self.state();
        let seeds = [state.seed, after as u64, seed];
        let mut disk = state.base.clone();
        for op in &state.log[..after] {
            disk.apply(op)
                .expect("a logged change happened once and happens again");
        }
        drop(state);
        let mut random = Random::new(&seeds);
        let left = disk.power_cut(&mut random);
        Self::with_disk(left, random.next())
    }

    pub(super) fn look<T>(&self, see: impl FnOnce(&Disk) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        let number = state.reads;
        state.reads += 1;
        match state.fault(self.process, FaultOn::Reads, number)? {
            None => see(&state.disk),
            Some(_) => Err(Errno::IO.into()),
        }
    }

    pub(super) fn change(&self, op: Op) -> io::Result<()> {
        self.state().change(self.process, op)
    }

    pub(super) fn open_handle(
        &self,
        find: impl FnOnce(&Disk) -> io::Result<Inode>,
    ) -> io::Result<SimFile> {
        let mut state = self.state();
        let inode = find(&state.disk)?;
        state.disk.data(inode)?;
        state.handles += 1;
        let handle = state.handles;
        drop(state);
        Ok(SimFile {
            fs: self.clone(),
            inode,
            handle,
        })
    }
}
