//! Reading ahead: finds clients that read in sequence, and decodes in the background what they
//! will ask for.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use super::Inner;
use super::queue::Queue;
use crate::limits::{KIB, MIB};
use crate::threads::Joined;

/// Clients followed at once, for each image.
const STREAMS: usize = 8;
/// How far from the end of what was read a stream's next read may begin: clients keep many
/// requests under way, which come in any order.
const SLACK: u64 = 4 * MIB;
/// A stream is one once it has read so much, without larger gaps than parts read.
const RUN_MIN: u64 = 512 * KIB;
/// Most that is read ahead of a stream.
const AHEAD_MAX: u64 = 8 * MIB;
/// A stream that has come so far goes over the disk once, and wants nothing again. However much
/// is read, who stays within less comes back to it.
const SCAN_MIN: u64 = 8 * MIB;
/// Most threads that read ahead.
const THREADS_MAX: usize = 8;

/// The clients that read an image in sequence.
#[derive(Default)]
pub(super) struct Streams(Mutex<Vec<Stream>>);

struct Stream {
    start: u64,
    /// Where the furthest read ended.
    next: u64,
    /// How much was read.
    bytes: u64,
    /// Up to where was read ahead.
    ahead: u64,
}

/// What a read says of its client.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// What to read ahead now.
    pub(super) ahead: Option<Range<u64>>,
    /// Whether the client goes over the disk once.
    pub(super) is_scan: bool,
}

impl Streams {
    /// Takes note of a read. At most `ahead_max` bytes are to be read ahead.
    pub(super) fn note(&self, read: Range<u64>, size: u64, ahead_max: u64) -> Noted {
        // Nobody waits for this: a read that is not noted is soon followed by others.
        let Ok(mut streams) = self.0.try_lock() else {
            return Noted::default();
        };
        let near = |stream: &Stream| {
            let end = stream.next;
            (end.saturating_sub(SLACK)..end.saturating_add(SLACK)).contains(&read.start)
        };
        let Some(at) = streams.iter().position(near) else {
            streams.truncate(STREAMS - 1);
            let stream = Stream {
                start: read.start,
                next: read.end,
                bytes: read.end - read.start,
                ahead: read.end,
            };
            streams.insert(0, stream);
            return Noted::default();
        };
        // The one used last stands in front; the last one goes.
        if let Some(before) = streams.get_mut(..=at) {
            before.rotate_right(1);
        }
        let Some(stream) = streams.first_mut() else {
            return Noted::default();
        };
        Noted {
            ahead: stream.advance(&read, size, ahead_max),
            is_scan: stream.next - stream.start >= SCAN_MIN,
        }
    }
}

impl Stream {
    fn advance(&mut self, read: &Range<u64>, size: u64, ahead_max: u64) -> Option<Range<u64>> {
        self.bytes += read.end - read.start;
        self.start = self.start.min(read.start);
        self.next = self.next.max(read.end);
        let passed = self.next - self.start;
        if self.bytes.saturating_mul(2) < passed {
            // Jumps within a small part of the disk: a run may begin here.
            self.start = read.start;
            self.next = read.end;
            self.bytes = read.end - read.start;
            self.ahead = read.end;
            return None;
        }
        let want = AHEAD_MAX.min(ahead_max);
        let target = self.next.saturating_add(want).min(size);
        let from = self.ahead.max(self.next);
        if self.bytes < RUN_MIN || target.saturating_sub(from) < want.div_ceil(2).max(1) {
            return None;
        }
        self.ahead = target;
        Some(from..target)
    }
}

/// The threads that read ahead, started with the first thing to do. They hold an image only while
/// they are at it, and whoever drops its last clone waits for that: so no thread is ever the last
/// that holds an image, a repository or its index.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<Joined>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Told when a thread has let go of an image.
    let_go: Condvar,
}

struct State {
    waiting: Queue<Weak<Inner>>,
    /// The numbers of the images that threads are at.
    at: Vec<u32>,
    is_started: bool,
    is_closed: bool,
}

/// A piece that a thread has taken. Dropped, the thread has let go of the image.
struct Piece<'s> {
    shared: &'s Shared,
    image: Option<Arc<Inner>>,
    range: Range<u64>,
}

impl Piece<'_> {
    fn warm(&self) {
        if let Some(image) = &self.image {
            image.warm(self.range.clone());
        }
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        let Some(image) = self.image.take() else {
            return;
        };
        let number = image.number;
        // Before it is said, and without the lock: whoever waits for it is the last then.
        drop(image);
        let mut state = self.shared.lock();
        if let Some(place) = state.at.iter().position(|at| *at == number) {
            state.at.swap_remove(place);
        }
        drop(state);
        self.shared.let_go.notify_all();
    }
}

impl Workers {
    /// Returns threads that have at most `bytes_max` bytes before them, urgent ones not counted.
    pub(super) fn new(bytes_max: u64) -> Self {
        let state = State {
            waiting: Queue::new(bytes_max),
            at: Vec::new(),
            is_started: false,
            is_closed: false,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                wake: Condvar::new(),
                let_go: Condvar::new(),
            }),
            threads: Mutex::default(),
        }
    }

    /// Has a range of an image decoded and checked in the background, as much of it as there is
    /// room for; an `urgent` one before all others, and whole.
    pub(super) fn submit(&self, image: &Arc<Inner>, range: Range<u64>, urgent: bool) {
        if range.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        let weak = Arc::downgrade(image);
        match urgent {
            true => state.waiting.put_urgent(weak, range),
            false => state.waiting.put(image.number, weak, range),
        }
        let starts = !std::mem::replace(&mut state.is_started, true);
        drop(state);
        if starts {
            self.start();
        }
        self.shared.wake.notify_all();
    }

    /// Starts as many threads as there are processors. None at all is no failure: then every reader
    /// decodes for itself.
    fn start(&self) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |number| {
            let shared = Arc::clone(&self.shared);
            Joined::start(format!("image-{number}"), move || shared.work()).ok()
        };
        let started = (0..threads.min(THREADS_MAX)).filter_map(start);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.extend(started);
    }

    /// Forgets what waits for an image whose last clone goes, and waits until no thread is at it
    /// any more: for a piece at most, of which no further chunk is begun.
    pub(super) fn leave(&self, image: &Inner) {
        image.is_left.store(true, Ordering::Relaxed);
        let mut state = self.shared.lock();
        let is_it = |waiting: &Weak<Inner>| std::ptr::eq(waiting.as_ptr(), image);
        state.waiting.forget(is_it);
        while state.at.contains(&image.number) {
            let woken = self.shared.let_go.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Ends the threads, once they have done what they are at, and waits for them.
impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        state.waiting.clear();
        drop(state);
        self.shared.wake.notify_all();
        let threads = self.threads.get_mut();
        threads.unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(piece) = self.next() {
            // Whoever reads the range meets the same fault, and can say so; the thread has to stay
            // for the others.
            drop(catch_unwind(AssertUnwindSafe(|| piece.warm())));
        }
    }

    /// Waits for the next piece; `None` when all is over.
    fn next(&self) -> Option<Piece<'_>> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some((image, range)) = state.waiting.take() {
                // What waits goes before its image does.
                let Some(image) = image.upgrade() else {
                    continue;
                };
                state.at.push(image.number);
                return Some(Piece {
                    shared: self,
                    image: Some(image),
                    range,
                });
            }
            let woken = self.wake.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 40;

    #[test]
    fn a_client_in_sequence_is_read_ahead_of_once_for_each_byte() {
        let streams = Streams::default();
        let mut ahead: Vec<Range<u64>> = Vec::new();
        for number in 0..1000 {
            let read = number * 256 * KIB..(number + 1) * 256 * KIB;
            if let Some(range) = streams.note(read.clone(), SIZE, u64::MAX).ahead {
                assert!(range.start >= read.end && range.end <= read.end + AHEAD_MAX);
                assert!(ahead.last().is_none_or(|last| last.end <= range.start));
                ahead.push(range);
            }
        }
        let bytes: u64 = ahead.iter().map(|range| range.end - range.start).sum();
        assert!(bytes > 240 * MIB, "{bytes}");
    }

    #[test]
    fn several_clients_with_many_requests_under_way_are_told_apart() {
        let streams = Streams::default();
        let mut random = fastrand::Rng::with_seed(1);
        let mut ahead = [0; 3];
        for number in 0..400_u64 {
            for (client, ahead) in ahead.iter_mut().enumerate() {
                let at = client as u64 * 64 * MIB * KIB + (number ^ random.u64(..4)) * 64 * KIB;
                let told = streams.note(at..at + 64 * KIB, SIZE, u64::MAX).ahead;
                *ahead += told.map_or(0, |range| range.end - range.start);
            }
        }
        assert!(ahead.iter().all(|bytes| *bytes > 20 * MIB), "{ahead:?}");
    }

    #[test]
    fn a_client_is_a_scan_by_how_far_it_comes_and_not_by_how_much_it_reads() {
        let streams = Streams::default();
        let note = |at| streams.note(at..at + 64 * KIB, SIZE, u64::MAX).is_scan;
        for number in 0..1000 {
            assert!(!note(number * 64 * KIB % (3 * MIB)), "{number}");
        }
        let start = 100 * MIB;
        let scans = (0..1000).map(|number| note(start + number * 64 * KIB));
        assert_eq!(scans.filter(|is_scan| *is_scan).count(), 1000 - 127);
    }

    #[test]
    fn random_reads_are_no_stream() {
        let streams = Streams::default();
        let mut random = fastrand::Rng::with_seed(2);
        for size in [64 * MIB, 4096 * MIB] {
            for _ in 0..10_000 {
                let at = random.u64(..size / 4096) * 4096;
                let noted = streams.note(at..at + 4096, size, u64::MAX);
                assert_eq!(noted, Noted::default());
            }
        }
    }

    #[test]
    fn nothing_is_read_beyond_the_disk_or_the_bound() {
        let streams = Streams::default();
        for number in 0..64 {
            let read = number * 64 * KIB..(number + 1) * 64 * KIB;
            if let Some(range) = streams.note(read, 4 * MIB, MIB).ahead {
                assert!(range.end <= 4 * MIB && range.end - range.start <= MIB);
            }
        }
    }
}
