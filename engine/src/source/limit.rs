//! Sources that are read no faster than a rate, which several can share.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Source, SourceError};
use crate::extent::Extent;
use crate::progress::Cancel;

/// What may be read at once after a pause, as a part of what a second allows: reads are evened out,
/// and a short pause of the reader is made up for.
const BURST: Duration = Duration::from_millis(250);
/// How much is asked of the source at once, in time: so long it goes at full speed at most.
const STEP: Duration = Duration::from_millis(100);
/// Reads start at multiples of this where they can.
const STEP_ALIGN: u64 = 4096;
/// How often a wait looks whether it has become pointless.
const LOOK: Duration = Duration::from_millis(50);
const NANOS: u128 = 1_000_000_000;

/// A rate of bytes that whoever holds it keeps to, all together.
#[derive(Debug)]
pub struct RateLimit {
    bytes_per_second: NonZeroU64,
    started: Instant,
    bucket: Mutex<Bucket>,
    /// Nobody notifies it: a wait ends with its time.
    wait: Condvar,
}

/// When what was granted so far is paid for. A grant is a reservation: whoever comes next waits
/// behind it, so that large reads do not starve.
#[derive(Debug, Default)]
struct Bucket {
    paid_at: Duration,
}

impl Bucket {
    /// Grants `bytes`, and returns from when on they may be read. `now` must not run backwards.
    fn grant(&mut self, now: Duration, bytes: u64, rate: NonZeroU64) -> Duration {
        let cost = time_of(bytes, rate);
        let from = self.paid_at.max(now.saturating_sub(BURST));
        self.paid_at = from.saturating_add(cost);
        self.paid_at.max(now)
    }
}

/// Returns how long so many bytes take, rounded up.
fn time_of(bytes: u64, rate: NonZeroU64) -> Duration {
    let nanos = u128::from(bytes)
        .saturating_mul(NANOS)
        .div_ceil(u128::from(rate.get()));
    let whole = nanos.checked_div(NANOS).unwrap_or_default();
    let rest = nanos.checked_rem(NANOS).unwrap_or_default();
    match (u64::try_from(whole), u32::try_from(rest)) {
        (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos),
        _ => Duration::MAX,
    }
}

/// Returns how many bytes a span of time allows, at least one.
fn bytes_in(span: Duration, rate: NonZeroU64) -> u64 {
    let bytes = u128::from(rate.get()).saturating_mul(span.as_nanos()) / NANOS;
    u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
}

impl RateLimit {
    /// Returns a limit of so many bytes each second, and a quarter of that after a pause.
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            bytes_per_second,
            started: Instant::now(),
            // Nothing was paid for in advance.
            bucket: Mutex::default(),
            wait: Condvar::new(),
        }
    }

    /// Returns the bytes allowed each second.
    pub fn bytes_per_second(&self) -> NonZeroU64 {
        self.bytes_per_second
    }

    /// Waits until `bytes` may be read.
    pub(crate) fn take(&self, bytes: u64, cancel: &Cancel) -> Result<(), SourceError> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let at = bucket.grant(self.started.elapsed(), bytes, self.bytes_per_second);
        loop {
            if cancel.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            let left = at.saturating_sub(self.started.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            let waited = self.wait.wait_timeout(bucket, left.min(LOOK));
            bucket = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns how many bytes to ask for at once, from `offset` on.
    fn step(&self, offset: u64) -> u64 {
        let most = bytes_in(STEP, self.bytes_per_second);
        let end = offset.saturating_add(most);
        let aligned = end.saturating_sub(end.checked_rem(STEP_ALIGN).unwrap_or_default());
        match aligned.checked_sub(offset) {
            None | Some(0) => most,
            Some(len) => len,
        }
    }
}

/// A source that is read no faster than its limit allows. What it tells without being read is not
/// limited.
pub struct Limited {
    inner: Box<dyn Source>,
    limit: Arc<RateLimit>,
    cancel: Cancel,
}

impl Limited {
    /// Limits a source, together with all others of the same limit. Waits end with `cancel`.
    pub fn new(inner: Box<dyn Source>, limit: Arc<RateLimit>, cancel: Cancel) -> Self {
        Self {
            inner,
            limit,
            cancel,
        }
    }

    fn read_batch(&self, batch: &mut Vec<(u64, &mut [u8])>) -> Result<(), SourceError> {
        let bytes = batch.iter().map(|(_, buf)| buf.len() as u64).sum();
        if bytes > 0 {
            self.limit.take(bytes, &self.cancel)?;
            self.inner.read_many(batch)?;
        }
        batch.clear();
        Ok(())
    }
}

impl Source for Limited {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        self.inner.extents(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        self.read_many(&mut [(offset, buf)])
    }

    fn read_many(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        let most = bytes_in(STEP, self.limit.bytes_per_second);
        let mut batch: Vec<(u64, &mut [u8])> = Vec::new();
        let mut batched = 0_u64;
        for (offset, buf) in parts {
            let (mut at, mut rest) = (*offset, &mut **buf);
            while !rest.is_empty() {
                if batched >= most {
                    self.read_batch(&mut batch)?;
                    batched = 0;
                }
                let room = usize::try_from(self.limit.step(at)).unwrap_or(usize::MAX);
                let (part, after) = rest.split_at_mut(room.min(rest.len()));
                let len = part.len() as u64;
                batch.push((at, part));
                batched = batched.saturating_add(len);
                at = at.saturating_add(len);
                rest = after;
            }
        }
        self.read_batch(&mut batch)
    }

    fn has_unchanged(&self) -> bool {
        self.inner.has_unchanged()
    }

    fn untold(&self) -> Option<String> {
        self.inner.untold()
    }

    fn settle(&self) {
        self.inner.settle();
    }

    fn written(&self) -> Option<String> {
        self.inner.written()
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

#[cfg(test)]
mod tests;
