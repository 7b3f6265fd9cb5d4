#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that is wrong may panic"
)]
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::extent::ExtentStatus;

fn rate(bytes_per_second: u64) -> NonZeroU64 {
    NonZeroU64::new(bytes_per_second).expect("not zero")
}

/// A disk of bytes that tell their offset, which keeps account of what was read, and when.
struct Counted {
    reads: mpsc::Sender<u64>,
    remote: bool,
}

impl Source for Counted {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        Ok(vec![Extent {
            offset: range.start,
            len: range.end - range.start,
            status: ExtentStatus::Unchanged,
        }])
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        for (at, byte) in (offset..).zip(buf.iter_mut()) {
            *byte = (at % 251) as u8;
        }
        let sent = self.reads.send(buf.len() as u64);
        sent.map_err(|_| SourceError::Cancelled)
    }

    fn has_unchanged(&self) -> bool {
        true
    }

    fn untold(&self) -> Option<String> {
        Some("why not".to_owned())
    }

    fn is_remote(&self) -> bool {
        self.remote
    }
}

#[test]
fn no_more_is_granted_than_rate_and_burst_allow() {
    let mut random = fastrand::Rng::new();
    for per_second in [1, 999, 65_536, 10_000_000, 40_000_000_000] {
        let rate = rate(per_second);
        let mut bucket = Bucket::default();
        let mut now = Duration::ZERO;
        // What was read until when; a span is tried from every read on.
        let mut reads: Vec<(Duration, u64)> = Vec::new();
        for _ in 0..300 {
            now += Duration::from_nanos(random.u64(0..400_000_000));
            let bytes = random.u64(0..=bytes_in(STEP, rate));
            reads.push((bucket.grant(now, bytes, rate), bytes));
        }
        for (first, (start, _)) in reads.iter().enumerate() {
            let mut sum = 0;
            for (at, bytes) in &reads[first..] {
                sum += u128::from(*bytes);
                let span = (*at - *start + BURST).as_nanos();
                // The first read of a span may have been waited for before it.
                let first = u128::from(reads[first].1);
                let allowed = u128::from(per_second) * span / NANOS + first + 1;
                assert!(
                    sum <= allowed,
                    "{sum} of {allowed} at {per_second} a second"
                );
            }
        }
    }
}

#[test]
fn reads_are_whole_and_in_no_less_time_than_they_must_take() -> Result<(), SourceError> {
    let (reads, counted) = mpsc::channel();
    let remote = true;
    let limit = Arc::new(RateLimit::new(rate(1_000_000)));
    let inner = || {
        let reads = reads.clone();
        Box::new(Counted { reads, remote })
    };
    let sources = [(); 2].map(|()| Limited::new(inner(), Arc::clone(&limit), Cancel::default()));
    let started = Instant::now();
    thread::scope(|scope| {
        let threads = sources.iter().map(|source| {
            scope.spawn(move || {
                let (mut a, mut b) = (vec![0; 150_001], vec![0; 99_999]);
                source.read_many(&mut [(7, &mut a), (500_000, &mut b)])?;
                let is_right = |from: u64, bytes: &[u8]| {
                    (from..)
                        .zip(bytes)
                        .all(|(at, byte)| at % 251 == u64::from(*byte))
                };
                assert!(is_right(7, &a) && is_right(500_000, &b));
                Ok(())
            })
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    // times: half a second's worth, and a quarter of a second may come at once; never sooner.
    assert!(started.elapsed() >= Duration::from_millis(240));
    let sizes: Vec<u64> = counted.try_iter().collect();
    assert_eq!(sizes.iter().sum::<u64>(), 500_000);
    assert!(sizes.iter().all(|len| *len <= 100_000), "{sizes:?}");
    Ok(())
}

#[test]
fn a_wait_ends_when_someone_asks_to_stop() {
    let (reads, counted) = mpsc::channel();
    let cancel = Cancel::default();
    let limit = Arc::new(RateLimit::new(rate(1)));
    let remote = false;
    let inner = Box::new(Counted { reads, remote });
    let source = Limited::new(inner, limit, cancel.clone());
    let stopped = thread::scope(|scope| {
        let reader = scope.spawn(|| source.read_at(0, &mut [0; 100_000]));
        // So that it waits by then, in most runs; a read or two may come through.
        let _read = counted.recv_timeout(Duration::from_millis(20)).ok();
        cancel.cancel();
        reader.join().expect("it does not panic")
    });
    assert!(matches!(stopped, Err(SourceError::Cancelled)));
}

#[test]
fn all_else_is_the_sources() -> Result<(), SourceError> {
    let (reads, _counted) = mpsc::channel();
    let limit = Arc::new(RateLimit::new(rate(1)));
    for remote in [true, false] {
        let reads = reads.clone();
        let inner = Box::new(Counted { reads, remote });
        let source = Limited::new(inner, Arc::clone(&limit), Cancel::default());
        assert_eq!(source.size(), 1 << 20);
        assert_eq!(source.extents(5..9)?.len(), 1);
        assert!(source.has_unchanged());
        assert_eq!(source.untold().as_deref(), Some("why not"));
        assert_eq!(source.is_remote(), remote);
        source.read_many(&mut [])?;
        source.read_at(3, &mut [])?;
    }
    Ok(())
}
