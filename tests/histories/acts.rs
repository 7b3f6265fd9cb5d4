//! What processes do: back up, restore, collect; and what [`upkeep`] has.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cairn_engine::gc::GcError;
use cairn_engine::progress::Cancel;
use cairn_engine::repository::{Repository, RepositoryError, Snapshot};
use cairn_engine::storage::sim::SimFs;
use cairn_engine::storage::{Folder, SharedStorage, StorageError};
use jiff::Timestamp;
use tempfile::TempDir;

use super::baton::Baton;
use super::model::{Model, digest};
use super::staged::{Stage, StagedFs};
use super::upkeep;
use crate::support::gc::collect_but;
use crate::support::memory::restore_fresh;
use crate::support::sim::{chain, copy_tree, options, scratch};
use crate::support::{MemorySource, backup_against, edit, random_disk};

/// Bytes of each disk.
const DISK_LEN: usize = 300_000;

/// One round of a history: what all its processes share.
pub struct Round {
    pub baton: Arc<Baton>,
    pub disk: SimFs,
    pub model: Arc<Model>,
    /// The index that processes of this machine share.
    pub cache: TempDir,
    /// An index of long ago.
    pub old_cache: TempDir,
    pub is_cut: Arc<AtomicBool>,
    pub cut: Arc<dyn Fn() + Send + Sync>,
}

/// One client, which does one thing after another.
pub struct Client {
    pub number: usize,
    pub random: fastrand::Rng,
    /// Its disk, as it is now.
    pub bytes: Vec<u8>,
    /// What it was before: to come back to, when nobody but dead packs has it any more.
    past: Vec<Vec<u8>>,
}

/// A process that does one thing.
pub struct Process<'r> {
    pub round: &'r Round,
    stage: Arc<Stage>,
    pub repository: Arc<Repository>,
    _cache: Option<TempDir>,
}

impl Client {
    pub fn new(number: usize, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        // Clients share half of what they have: they deduplicate against one another.
        let mut bytes = random_disk(&mut fastrand::Rng::with_seed(seed & 0xff), DISK_LEN);
        edit(&mut random, &mut bytes);
        Self {
            number,
            random,
            bytes,
            past: Vec::new(),
        }
    }

    /// Does some things.
    pub fn act(&mut self, round: &Round, count: usize) {
        round.baton.wait(self.number);
        for _ in 0..count {
            if round.is_cut.load(Ordering::SeqCst) {
                break;
            }
            let what = self.random.u8(0..20);
            let Some(process) = self.start(round) else {
                continue;
            };
            match what {
                0..=6 => self.back_up(&process),
                7 | 8 => upkeep::forget(&mut self.random, &process),
                9 => upkeep::prune(&mut self.random, &process),
                10 | 11 => upkeep::undelete(&mut self.random, &process),
                12..=15 => self.collect(&process),
                16 => upkeep::verify(&process),
                17 => upkeep::repair(&process),
                _ => self.restore(&process),
            }
            drop(process);
        }
        round.baton.leave(self.number);
    }

    fn start<'r>(&mut self, round: &'r Round) -> Option<Process<'r>> {
        let kill_after = match self.random.u8(0..4) {
            0 => self.random.u32(0..150),
            _ => u32::MAX,
        };
        let stage = Arc::new(Stage {
            baton: Arc::clone(&round.baton),
            actor: self.number,
            disk: round.disk.spawn(),
            kill_after: AtomicU32::new(kill_after),
            cut: Arc::clone(&round.cut),
        });
        let (path, own): (PathBuf, Option<TempDir>) = match self.random.u8(0..6) {
            0 => own_cache(None),
            1 => own_cache(Some(round.old_cache.path())),
            _ => (round.cache.path().to_owned(), None),
        };
        let process = open(&stage, &path).map(|repository| Process {
            round,
            stage: Arc::clone(&stage),
            repository,
            _cache: own,
        });
        match process {
            Ok(process) => Some(process),
            Err(error) => {
                let is_over = round.is_cut.load(Ordering::SeqCst) || was_killed(&stage);
                if !is_over {
                    let error = chain(&error);
                    round
                        .model
                        .violation(format!("a repository does not open: {error}"));
                }
                None
            }
        }
    }

    fn back_up(&mut self, process: &Process<'_>) {
        let before = self.bytes.clone();
        self.past.push(before.clone());
        match self.random.bool() {
            true => edit(&mut self.random, &mut self.bytes),
            false => {
                let past = self.random.choice(&self.past);
                self.bytes = past.expect("there is one").clone();
            }
        }
        let model = &process.round.model;
        model.known().tried.insert(digest(&self.bytes));
        let parent = process.any_live(&mut self.random);
        let source = match &parent {
            Some(parent) if self.random.bool() => {
                let known = model.known();
                let made = known.made.get(&parent.id);
                made.map(|made| MemorySource::changed_since(made, self.bytes.clone(), true))
            }
            _ => None,
        };
        let (source, parent) = match source {
            Some(source) => (source, parent),
            None => (MemorySource::new(self.bytes.clone()), None),
        };
        let done = backup_against(&process.repository, source, parent, &Cancel::default());
        match done {
            Ok(done) if !process.is_over() => {
                let bytes = Arc::new(self.bytes.clone());
                model.known().made.insert(done.snapshot, bytes);
            }
            // Killed after its last call: nobody knows whether it was told.
            Ok(_) => {}
            Err(error) => {
                self.bytes = before;
                process.failed("backup", &error);
            }
        }
    }

    fn collect(&mut self, process: &Process<'_>) {
        // A clock that is right, in the far future, or in the past.
        let now = match self.random.u8(0..8) {
            0 => Timestamp::from_second(0).expect("a time"),
            1 => Timestamp::MAX,
            _ => Timestamp::now(),
        };
        let max_unused = [0.0, 5.0, 50.0][self.random.usize(0..3)];
        let done = collect_but(&process.repository, now, max_unused);
        match done {
            Ok(_) => {}
            Err(GcError::Repository(error)) if is_locked(&error) => {}
            Err(error) => process.failed("gc", &error),
        }
    }

    fn restore(&mut self, process: &Process<'_>) {
        let Some(snapshot) = process.any_live(&mut self.random) else {
            return;
        };
        match restore_fresh(&process.repository, &snapshot) {
            Ok(bytes) => process
                .round
                .model
                .check_bytes(snapshot.id, &bytes, "restore"),
            Err(error) => process.failed("restore", &error),
        }
    }
}

impl Process<'_> {
    /// Returns whether it was killed, or the power is off.
    pub fn is_over(&self) -> bool {
        self.round.is_cut.load(Ordering::SeqCst) || was_killed(&self.stage)
    }

    /// Returns all snapshots, forgotten ones too.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        match self.repository.snapshots() {
            Ok(list) => list.snapshots,
            Err(error) => {
                self.failed("snapshots", &error);
                Vec::new()
            }
        }
    }

    /// Returns a snapshot that is not forgotten.
    pub fn any_live(&self, random: &mut fastrand::Rng) -> Option<Snapshot> {
        let live = self.snapshots().into_iter();
        let live: Vec<_> = live.filter(|it| it.state.forgotten.is_none()).collect();
        random.choice(live)
    }

    /// Notes a failure that has no excuse: the process lives, and nobody took away what it uses.
    pub fn failed(&self, what: &str, error: &(dyn Error + 'static)) {
        let text = chain(error);
        let is_gone = text.contains("SnapshotGone");
        if !is_gone && !self.is_over() {
            self.round.model.violation(format!("{what}: {text}"));
        }
    }
}

/// Returns whether somebody else collects, or whatever excludes it.
pub fn is_locked(error: &RepositoryError) -> bool {
    matches!(error, RepositoryError::Storage(StorageError::Locked { .. }))
}

/// Returns whether a process was killed: its disk does nothing any more.
fn was_killed(stage: &Stage) -> bool {
    stage.kill_after.load(Ordering::SeqCst) == 0
}

fn own_cache(from: Option<&Path>) -> (PathBuf, Option<TempDir>) {
    let cache = scratch();
    if let Some(from) = from {
        copy_tree(from, cache.path());
    }
    (cache.path().to_owned(), Some(cache))
}

/// Opens the repository as one process does.
pub fn open(stage: &Arc<Stage>, cache: &Path) -> Result<Arc<Repository>, RepositoryError> {
    let storage: SharedStorage = Arc::new(Folder::open(StagedFs(Arc::clone(stage)))?);
    let no_passphrase = || Err(RepositoryError::WrongPassphrase);
    Repository::open(storage, &options(cache), false, no_passphrase)
}
