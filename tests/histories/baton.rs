//! Whose turn it is: of many processes one runs at a time, and each call of the disk may pass the
//! turn on. What a seed decides once, it decides the same way again.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Passed around between actors.
pub struct Baton {
    state: Mutex<State>,
    passed: Condvar,
}

struct State {
    random: fastrand::Rng,
    turn: usize,
    at_work: Vec<bool>,
    /// After how many more points the power is cut.
    cut_after: Option<u32>,
    trace: Vec<String>,
}

impl Baton {
    /// Begins with actor 0 of `actors`.
    pub fn new(seed: u64, actors: usize, cut_after: Option<u32>) -> Self {
        Self {
            state: Mutex::new(State {
                random: fastrand::Rng::with_seed(seed),
                turn: 0,
                at_work: vec![true; actors],
                cut_after,
                trace: Vec::new(),
            }),
            passed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the actor's turn.
    pub fn wait(&self, actor: usize) {
        let mut state = self.state();
        while state.turn != actor {
            state = self
                .passed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A point at which others may come in between. Returns whether the power is to be cut here.
    pub fn point(&self, actor: usize, what: &str) -> bool {
        self.wait(actor);
        let mut state = self.state();
        if state.trace.len() < 100_000 {
            state.trace.push(format!("{actor} {what}"));
        }
        if let Some(left) = &mut state.cut_after {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => {
                    state.cut_after = None;
                    return true;
                }
            }
        }
        if state.random.u8(..) < 40 {
            Self::pass(&mut state);
            self.passed.notify_all();
        }
        drop(state);
        self.wait(actor);
        false
    }

    /// The actor has nothing more to do.
    pub fn leave(&self, actor: usize) {
        self.wait(actor);
        let mut state = self.state();
        state.at_work[actor] = false;
        Self::pass(&mut state);
        self.passed.notify_all();
    }

    fn pass(state: &mut State) {
        let others: Vec<usize> = (0..state.at_work.len())
            .filter(|actor| state.at_work[*actor])
            .collect();
        if let Some(next) = state.random.choice(others) {
            state.turn = next;
        }
    }

    /// Returns what happened, for whoever looks into a failure.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }
}
