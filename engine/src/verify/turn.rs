//! Whose turn it is: packs in the order in which they are read, for as long as there is time.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::id::PackId;
use crate::repository::{Condition, Depth, Readings};
use crate::storage::{Area, Name, Storage, StorageError};

/// After so long what was read is written down, so that a kill loses no more.
const STORED_EVERY: Duration = Duration::from_secs(60);

/// How much of what is to be verified was read, and when.
#[derive(Debug, Default)]
pub struct Coverage {
    /// Packs that are to be verified.
    pub packs: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Packs that this verify read from end to end.
    pub read_packs: u64,
    /// Their stored bytes.
    pub read_bytes: u64,
    /// Packs that are not known to have been read and found whole ever: new ones, damaged ones.
    pub never_packs: u64,
    /// Their stored bytes.
    pub never_bytes: u64,
    /// Since when every other pack was read and found whole at least once.
    pub oldest: Option<Timestamp>,
    /// Why what was read could not be remembered.
    pub unremembered: Option<io::Error>,
}

/// One verify, as it takes packs in turn.
pub(super) struct Turn {
    /// Stored lengths of all packs that are there.
    lens: HashMap<PackId, u64>,
    all: Vec<PackId>,
    now: Timestamp,
    started: Instant,
    max_duration: Option<Duration>,
    state: Mutex<State>,
    /// Told when a pack was read.
    left: Condvar,
}

struct State {
    readings: Readings,
    stored: Instant,
    /// Packs that are being read by those who asked for leave.
    at_work: usize,
    has_read_whole: bool,
    read_packs: u64,
    read_bytes: u64,
}

/// That one more pack is being read.
pub(super) struct Leave<'t>(&'t Turn);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.state().at_work -= 1;
        self.0.left.notify_all();
    }
}

impl Turn {
    /// Begins a verify at `now` that has `max_duration` of time.
    pub(super) fn begin(
        storage: &dyn Storage,
        file: &Path,
        depth: Depth,
        now: Timestamp,
        max_duration: Option<Duration>,
    ) -> Result<Self, StorageError> {
        let listed = storage.list(Area::Packs)?.into_iter();
        let lens = listed.filter_map(|listed| match listed.name {
            Name::Pack(pack) => Some((pack, listed.len)),
            _ => None,
        });
        let lens: HashMap<PackId, u64> = lens.collect();
        let started = Instant::now();
        Ok(Self {
            all: lens.keys().copied().collect(),
            lens,
            now,
            started,
            max_duration,
            state: Mutex::new(State {
                readings: Readings::load(file, depth, now),
                stored: started,
                at_work: 0,
                has_read_whole: false,
                read_packs: 0,
                read_bytes: 0,
            }),
            left: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what time it is. The clock that may be set is asked once only.
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.started.elapsed()).unwrap_or_default();
        self.now.checked_add(passed).unwrap_or(self.now)
    }

    /// Returns all packs that there are.
    pub(super) fn packs(&self) -> &[PackId] {
        &self.all
    }

    /// Returns a pack's stored length.
    pub(super) fn len(&self, pack: PackId) -> u64 {
        self.lens.get(&pack).copied().unwrap_or(0)
    }

    /// Puts the packs first that were found damaged, or whose parity was; then those that were
    /// never read, then those that were not read for longest. Equals come in random order.
    pub(super) fn order(&self, packs: &mut [PackId]) {
        let mut seed = [0; 32];
        // Without random numbers it is one order among others.
        let _ = getrandom::fill(&mut seed);
        let state = self.state();
        packs.sort_by_cached_key(|pack| {
            let random = blake3::keyed_hash(&seed, pack.as_bytes());
            let comes_later = !state.readings.comes_first(*pack);
            (comes_later, state.readings.last(*pack), *random.as_bytes())
        });
    }

    /// Returns until when all but data may be looked at: half of the time is the data's.
    pub(super) fn half(&self) -> Option<Instant> {
        let half = self.max_duration? / 2;
        self.started.checked_add(half)
    }

    /// Returns leave to read another pack's data, kept while it is read, or `None` when the time
    /// is over. One whole pack may always be read: the next verify goes on after it, so that
    /// everything has its turn however short the time is. Damaged packs come first each time, and
    /// must not take the others' turn: so whoever comes late waits for what others find.
    pub(super) fn take(&self) -> Option<Leave<'_>> {
        let is_over = || {
            self.max_duration
                .is_some_and(|most| self.started.elapsed() >= most)
        };
        let mut state = self.state();
        while is_over() && state.at_work > 0 && !state.has_read_whole {
            let waited = self.left.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        if is_over() && state.has_read_whole {
            return None;
        }
        state.at_work += 1;
        drop(state);
        Some(Leave(self))
    }

    /// Notes that a pack was read to its end, and what that showed.
    pub(super) fn read(&self, pack: PackId, condition: Condition) {
        let now = self.now();
        let mut state = self.state();
        state.read_packs += 1;
        state.has_read_whole |= condition == Condition::Whole;
        state.read_bytes += self.len(pack);
        state.readings.note(pack, condition, now);
        if state.stored.elapsed() >= STORED_EVERY {
            // Tried again at the end, and told of then.
            drop(state.readings.store(&self.all, now));
            state.stored = Instant::now();
        }
    }

    /// Notes that a pack is damaged that could not be read to its end.
    pub(super) fn damaged(&self, pack: PackId) {
        let now = self.now();
        self.state().readings.note(pack, Condition::Damaged, now);
    }

    /// Writes down what was read, and returns how much of `packs` was.
    pub(super) fn end(&self, packs: &[PackId]) -> Coverage {
        let state = self.state();
        let mut coverage = Coverage {
            read_packs: state.read_packs,
            read_bytes: state.read_bytes,
            unremembered: state.readings.store(&self.all, self.now()).err(),
            ..Coverage::default()
        };
        for &pack in packs {
            // One that is not there any more is nobody's, or a fault.
            let Some(&len) = self.lens.get(&pack) else {
                continue;
            };
            coverage.packs += 1;
            coverage.bytes += len;
            match state.readings.last(pack) {
                None => {
                    coverage.never_packs += 1;
                    coverage.never_bytes += len;
                }
                Some(time) => {
                    let oldest = coverage.oldest.get_or_insert(time);
                    *oldest = time.min(*oldest);
                }
            }
        }
        coverage
    }
}
