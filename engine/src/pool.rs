//! Runs the same work on several threads, until the work or a failure ends it.

use rayon::ThreadPoolBuilder;
use rayon::iter::{ParallelBridge, ParallelIterator};

/// A thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread")]
pub struct NoThread(#[source] rayon::ThreadPoolBuildError);

/// Hands every item of `items` to one of `threads` workers.
///
/// `worker` gives what does the items on one thread. Items are made as workers come for them, in
/// their order: nothing is made ahead.
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
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(move |number| format!("{name}-{number}"))
        .build()
        .map_err(NoThread)?;
    pool.install(|| {
        items
            .par_bridge()
            .try_for_each_init(worker, |work, item| work(item?))
    })
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
    fn a_failure_of_the_iterator_is_returned() {
        let items = [Ok(1), Err(Failed(2)), Ok(3)].into_iter();
        assert_eq!(
            for_each(2, "iterate", items, || |_: u64| Ok(())),
            Err(Failed(2))
        );
    }
}
