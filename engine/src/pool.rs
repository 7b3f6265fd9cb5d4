//! Runs the same work on several threads, until the work or a failure ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rayon::iter::{ParallelBridge, ParallelIterator};
use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};

/// A thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread")]
pub struct NoThread(#[source] rayon::ThreadPoolBuildError);

/// Hands every item of `items` to one of `threads` workers.
///
/// `worker` gives what does the items on one thread. Items are made as workers come for them, in
/// their order: nothing is made ahead. All workers have ended when this returns: the pool is one in
/// a scope, since others' threads are left alone when they are dropped.
///
/// # Errors
///
/// The first failure of `items` or of a worker, after which no item is begun any more.
pub fn for_each<T, E, W>(
    threads: usize,
    name: &'static str,
    items: impl Iterator<Item = Result<T, E>> + Send,
    worker: impl Fn() -> W + Send + Sync,
) -> Result<(), E>
where
    T: Send,
    E: Send + From<NoThread>,
    W: FnMut(T) -> Result<(), E>,
{
    let is_over = AtomicBool::new(false);
    let items = items.take_while(|_| !is_over.load(Ordering::Relaxed));
    let work = |pool: &ThreadPool| {
        pool.install(|| {
            items.par_bridge().try_for_each_init(worker, |work, item| {
                let _end = End(&is_over);
                work(item?)
            })
        })
    };
    ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(move |number| format!("{name}-{number}"))
        .build_scoped(ThreadBuilder::run, work)
        .map_err(NoThread)?
}

/// Ends the items where a worker panics: the others would go on for hours, and all for nothing.
struct End<'f>(&'f AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
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
        let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        let done = for_each(4, "slow", (0..9).map(Ok::<u64, Failed>), || {
            begun.fetch_add(1, Ordering::SeqCst);
            let slow = Slow(&ended);
            move |_| {
                let _held = &slow;
                Ok(())
            }
        });
        assert_eq!(done, Ok(()));
        assert!(begun.load(Ordering::SeqCst) > 0);
        assert_eq!(ended.load(Ordering::SeqCst), begun.load(Ordering::SeqCst));
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
