//! Runs the same work on several threads, until the work or a failure ends it.

use std::io;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// A thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread")]
pub struct NoThread(#[source] io::Error);

/// Hands every item of `items` to one of `threads` workers.
///
/// `worker` gives what does the items on one thread. Items are made as workers come for them, in
/// their order: nothing is made ahead. All workers have ended when this returns.
///
/// # Errors
///
/// A failure of the iterator or of a worker, the first in most cases; the others stop at their next
/// item. A thread that cannot be started is a failure by way of `From`.
pub fn for_each<T, E, W>(
    threads: usize,
    name: &'static str,
    items: impl Iterator<Item = Result<T, E>> + Send,
    worker: impl Fn() -> W + Sync + Send,
) -> Result<(), E>
where
    T: Send,
    E: Send + From<NoThread>,
    W: FnMut(T) -> Result<(), E>,
{
    let line = Line {
        items: Mutex::new(Some(items)),
        failure: Mutex::new(None),
    };
    thread::scope(|scope| {
        let mut started = Vec::new();
        for number in 0..threads.max(1) {
            let builder = thread::Builder::new().name(format!("{name}-{number}"));
            match builder.spawn_scoped(scope, || line.work(&worker)) {
                Ok(thread) => started.push(thread),
                Err(error) => line.fail(NoThread(error).into()),
            }
        }
        let ended: Vec<_> = started.into_iter().map(|thread| thread.join()).collect();
        if let Some(panic) = ended.into_iter().find_map(Result::err) {
            resume_unwind(panic);
        }
    });
    let failure = line.failure.into_inner();
    (failure.unwrap_or_else(PoisonError::into_inner)).map_or(Ok(()), Err)
}

/// What workers stand in line for, until there is nothing more or one has failed.
struct Line<I, E> {
    items: Mutex<Option<I>>,
    failure: Mutex<Option<E>>,
}

impl<I, T, E> Line<I, E>
where
    I: Iterator<Item = Result<T, E>>,
{
    fn work<W: FnMut(T) -> Result<(), E>>(&self, worker: &impl Fn() -> W) {
        // A worker that panics leaves nothing to the others.
        let end = End(self);
        let mut work = worker();
        while let Some(item) = self.next() {
            if let Err(error) = item.and_then(&mut work) {
                self.fail(error);
            }
        }
        drop(end);
    }

    fn next(&self) -> Option<Result<T, E>> {
        // Whoever panicked while making an item has the line closed; see `End`.
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let next = items.as_mut()?.next();
        if next.is_none() {
            *items = None;
        }
        next
    }

    /// Ends the line. The first failure counts.
    fn fail(&self, error: E) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.close();
    }
}

impl<I, E> Line<I, E> {
    fn close(&self) {
        *self.items.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Closes the line where a worker panics: the others would go on for hours, and all for nothing.
struct End<'l, I, E>(&'l Line<I, E>);

impl<I, E> Drop for End<'_, I, E> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Failed(u64);

    impl From<NoThread> for Failed {
        fn from(_: NoThread) -> Self {
            Self(u64::MAX)
        }
    }

    #[test]
    fn every_item_is_done_once() {
        let sum = AtomicU64::new(0);
        let done = for_each(3, "sum", (1..=1000).map(Ok::<u64, Failed>), || {
            |item| {
                sum.fetch_add(item, Ordering::Relaxed);
                Ok(())
            }
        });
        assert_eq!(done, Ok(()));
        assert_eq!(sum.into_inner(), 500_500);
    }

    #[test]
    fn a_failure_ends_an_endless_run() {
        let endless = (0..).map(Ok::<u64, Failed>);
        let done = for_each(2, "fail", endless, || {
            |item| if item == 7 { Err(Failed(item)) } else { Ok(()) }
        });
        assert_eq!(done, Err(Failed(7)));
    }

    #[test]
    fn a_panic_ends_an_endless_run_and_goes_on_in_the_caller() {
        let endless = (0..).map(Ok::<u64, Failed>);
        let run = || {
            for_each(2, "panic", endless, || {
                |item| match item {
                    7 => panic!("as it should"),
                    _ => Ok(()),
                }
            })
        };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let panic = ended.expect_err("it panics");
        assert_eq!(panic.downcast_ref(), Some(&"as it should"));
    }

    /// Counts those that were dropped, late.
    struct Slow<'c>(&'c AtomicU64);

    impl Drop for Slow<'_> {
        fn drop(&mut self) {
            thread::sleep(std::time::Duration::from_millis(30));
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn all_workers_have_ended_when_the_run_has() {
        let ended = AtomicU64::new(0);
        let done = for_each(4, "slow", (0..9).map(Ok::<u64, Failed>), || {
            let slow = Slow(&ended);
            move |_| {
                let _held = &slow;
                Ok(())
            }
        });
        assert_eq!(done, Ok(()));
        assert_eq!(ended.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn a_failure_of_the_iterator_is_returned() {
        let items = [Ok(1), Err(Failed(2)), Ok(3)].into_iter();
        assert_eq!(
            for_each(2, "iterate", items, || |_: u64| Ok(())),
            Err(Failed(2))
        );
    }
}
