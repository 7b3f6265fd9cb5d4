//! How many buffers there may be, and who waits for one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::buffer::Buffer;
use super::connection::Connection;

/// Buffers of one connection at most: 4 MiB.
pub(super) const HELD_MAX: usize = 16;
/// Buffers of all connections beyond one for each: 32 MiB. A slow client that fills its share
/// leaves the others at least one each, with which they go on.
const EXTRA_MAX: usize = 128;
/// Buffers that are kept for the next use.
const SPARE_MAX: usize = 32;

/// The buffers of a server.
pub(super) struct Budget(Mutex<State>);

struct State {
    extra: usize,
    spare: Vec<Buffer>,
    /// Who was refused one that all share, each once.
    line: VecDeque<Weak<Connection>>,
}

impl State {
    /// Returns who is first in line, and no longer is.
    fn next_in_line(&mut self) -> Option<Arc<Connection>> {
        std::iter::from_fn(|| self.line.pop_front()).find_map(|waiting| waiting.upgrade())
    }
}

impl Budget {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            extra: 0,
            spare: Vec::new(),
            line: VecDeque::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a buffer for a connection that holds `held` of them, if it may have another. Where
    /// there is none left of those that all share, whom `waiting` names stands in line for it.
    pub(super) fn take(
        &self,
        held: usize,
        waiting: impl FnOnce() -> Option<Weak<Connection>>,
    ) -> Option<Buffer> {
        let mut state = self.lock();
        if held >= HELD_MAX {
            return None;
        }
        if held > 0 && state.extra >= EXTRA_MAX {
            if let Some(waiting) = waiting() {
                state.line.retain(|other| other.strong_count() > 0);
                state.line.push_back(waiting);
            }
            return None;
        }
        if held > 0 {
            state.extra += 1;
        }
        Some(state.spare.pop().unwrap_or_else(Buffer::new))
    }

    /// Takes a buffer back from a connection that holds `held` of them, this one included.
    /// Returns who may have waited for it.
    pub(super) fn give_back(&self, mut buffer: Buffer, held: usize) -> Option<Arc<Connection>> {
        assert!(held > 0, "the connection holds the buffer");
        buffer.clear();
        let mut state = self.lock();
        if state.spare.len() < SPARE_MAX {
            state.spare.push(buffer);
        }
        if held == 1 {
            return None;
        }
        state.extra -= 1;
        state.next_in_line()
    }

    /// Returns who stands in line next if there is a buffer for it: whoever was woken for that one
    /// has no use for it any more.
    pub(super) fn pass_on(&self) -> Option<Arc<Connection>> {
        let mut state = self.lock();
        match state.extra < EXTRA_MAX {
            true => state.next_in_line(),
            false => None,
        }
    }

    /// Counts the buffers out that a connection held when it failed, and that are gone with it.
    pub(super) fn write_off(&self, held: usize) {
        self.lock().extra -= held.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_always_gets_one_and_greedy_ones_share_the_rest() {
        let budget = Budget::new();
        let mut taken = Vec::new();
        for connection in 0..EXTRA_MAX {
            for held in 0..HELD_MAX + 1 {
                match budget.take(held, || None) {
                    Some(buffer) => taken.push((connection, buffer)),
                    None => break,
                }
            }
        }
        assert_eq!(taken.len(), EXTRA_MAX + EXTRA_MAX);
        assert!(budget.take(1, || None).is_none());
        assert!(budget.take(0, || None).is_some());
        let greedy = taken.iter().filter(|(connection, _)| *connection == 0);
        assert_eq!(greedy.count(), HELD_MAX);
        let (_, buffer) = taken.remove(0);
        budget.give_back(buffer, HELD_MAX);
        assert!(budget.take(1, || None).is_some());
        assert!(budget.take(1, || None).is_none());
        budget.write_off(HELD_MAX);
        assert!(budget.take(1, || None).is_some());
    }
}
