//! The workers of a server, and which connection they work for next.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::budget::Budget;
use super::connection::Connection;

/// What all connections of a server share.
pub struct Pool {
    workers: NonZeroUsize,
    ready: Mutex<Ready>,
    wake: Condvar,
    pub(super) budget: Budget,
    is_stopping: AtomicBool,
}

/// What a worker is to do next.
enum Turn {
    /// Begin a task of a connection.
    Work(Arc<Connection>),
    /// Tell a connection that there may be a buffer for it.
    Wake(Arc<Connection>),
}

struct Ready {
    /// Connections with work to do, each once, and those to be woken.
    turns: VecDeque<Turn>,
    idle: usize,
    is_closed: bool,
}

impl Pool {
    /// Makes a pool for that many workers, which the caller starts.
    pub fn new(workers: NonZeroUsize) -> Arc<Self> {
        Arc::new(Self {
            workers,
            ready: Mutex::new(Ready {
                turns: VecDeque::new(),
                idle: 0,
                is_closed: false,
            }),
            wake: Condvar::new(),
            budget: Budget::new(),
            is_stopping: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many workers one connection may keep busy: one is left for the others.
    pub(super) fn running_max(&self) -> usize {
        self.workers.get().saturating_sub(1).max(1)
    }

    /// Puts a connection at the end of the line.
    pub(super) fn schedule(&self, connection: Arc<Connection>) {
        self.push(Turn::Work(connection));
    }

    /// Has a worker wake a connection. Who calls this may hold the state of another one, which
    /// is why it is not done here.
    pub(super) fn wake(&self, connection: Arc<Connection>) {
        self.push(Turn::Wake(connection));
    }

    /// Has the next one in line for a buffer woken, if there is one for it.
    pub(super) fn wake_next(&self) {
        if let Some(next) = self.budget.pass_on() {
            self.wake(next);
        }
    }

    fn push(&self, turn: Turn) {
        let mut ready = self.lock();
        ready.turns.push_back(turn);
        if ready.idle > 0 {
            self.wake.notify_one();
        }
    }

    /// Works until the pool is closed: what one worker thread does.
    pub fn work(&self) {
        while let Some(turn) = self.next() {
            let connection = match turn {
                Turn::Work(connection) => connection,
                Turn::Wake(connection) => {
                    connection.wake();
                    continue;
                }
            };
            let (task, has_more) = connection.begin_task();
            if has_more {
                self.schedule(Arc::clone(&connection));
            }
            if let Some(task) = task {
                connection.run_task(task);
            }
        }
    }

    fn next(&self) -> Option<Turn> {
        let mut ready = self.lock();
        loop {
            if let Some(turn) = ready.turns.pop_front() {
                return Some(turn);
            }
            if ready.is_closed {
                return None;
            }
            ready.idle += 1;
            ready = self
                .wake
                .wait(ready)
                .unwrap_or_else(PoisonError::into_inner);
            ready.idle -= 1;
        }
    }

    /// Lets workers end once nothing is left to do.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.wake.notify_all();
    }

    /// Leaves unread what clients ask for from now on.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }
}
