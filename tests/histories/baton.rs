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
    /// An actor that has no turn for so many points: a process that is stopped, or slow.
    asleep: Option<(usize, u32)>,
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
                asleep: None,
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
        let falls_asleep = state.random.u8(..) < 3;
        let points = state.random.u32(20..600);
        state.asleep = match state.asleep {
            Some((_, 0)) => None,
            Some((sleeper, left)) => Some((sleeper, left - 1)),
            None => falls_asleep.then_some((actor, points)),
        };
        let sleeps = state.asleep.is_some_and(|(sleeper, _)| sleeper == actor);
        if sleeps || state.random.u8(..) < 40 {
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
        let awake =
            |actor: &usize| !matches!(state.asleep, Some((sleeper, _)) if sleeper == *actor);
        let at_work: Vec<usize> = (0..state.at_work.len())
            .filter(|actor| state.at_work[*actor])
            .collect();
        let others: Vec<usize> = at_work.iter().copied().filter(awake).collect();
        // Nobody else has anything to do: the sleeper wakes.
        let candidates = if others.is_empty() { at_work } else { others };
        if let Some(next) = state.random.choice(candidates) {
            state.turn = next;
        }
    }

    /// Returns what happened, for whoever looks into a failure.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }
}
