//! Threads that somebody owns, so that none outlives what it uses.
//!
//! RocksDB keeps much in statics, and C++ destroys these while the process ends. A thread that asks
//! the index at that moment dies by a signal, after all work was done and told. So whoever starts
//! a thread waits for it: a scope, or the value that owns it when it is dropped.
//! `docs/concurrency.md` has the rule.

use std::io;
use std::thread::{self, JoinHandle};

/// A thread that is waited for when this is dropped. Whoever owns it tells it before that its time
/// has come.
#[derive(Debug)]
#[must_use = "dropping it waits for the thread"]
pub struct Joined<T = ()> {
    handle: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Joined<T> {
    /// Starts a thread.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn start(
        name: impl Into<String>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        let started = thread::Builder::new().name(name.into()).spawn(work)?;
        Ok(Self {
            handle: Some(started),
        })
    }

    /// Waits for the thread and returns what it made, or what it panicked with.
    pub fn join(mut self) -> thread::Result<T> {
        let handle = self.handle.take();
        handle.expect("only the end takes it out").join()
    }

    /// Returns whether the thread has come to its end.
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Lets the thread go on alone, maybe until after `main` has returned.
    ///
    /// For threads that wait in a call which nothing ends, and touch nothing but what they own:
    /// each use is named, with its reason, in `tests/tidy/threads.rs`.
    pub fn let_run_on(mut self) {
        drop(self.handle.take());
    }
}

impl<T> Drop for Joined<T> {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        if handle.thread().id() == thread::current().id() {
            // It cannot wait for itself. That it owns itself is a mistake, which tests shall see.
            debug_assert!(thread::panicking(), "a thread owns itself");
            return;
        }
        // A panic was printed where it happened.
        drop(handle.join());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// Says late that it has ended.
    fn slow(ended: &Arc<AtomicBool>) -> Joined {
        let ended = Arc::clone(ended);
        let work = move || {
            thread::sleep(Duration::from_millis(50));
            ended.store(true, Ordering::SeqCst);
        };
        Joined::start("slow", work).expect("a thread starts")
    }

    #[test]
    fn a_thread_has_ended_when_its_owner_is_dropped() {
        let ended = Arc::default();
        drop(slow(&ended));
        assert!(ended.load(Ordering::SeqCst));
    }

    #[test]
    fn what_a_thread_makes_is_returned_and_its_panic_too() {
        let made = Joined::start("make", || 7).expect("a thread starts");
        assert_eq!(made.join().ok(), Some(7));
        let failed = Joined::start("fail", || panic!("as it should")).expect("a thread starts");
        assert!(failed.join().is_err());
    }

    #[test]
    fn nobody_waits_for_a_thread_that_is_let_go() {
        let (keep, kept) = std::sync::mpsc::channel::<()>();
        let waits = Joined::start("wait", move || kept.recv().is_ok()).expect("a thread starts");
        waits.let_run_on();
        drop(keep);
    }
}
