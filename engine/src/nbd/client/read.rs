//! Reads: split into requests that the server takes, as many in flight as memory allows.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Sender, unbounded};

use super::error::ClientError;
use super::export::Client;
use super::handshake::Agreed;
use super::link::{Done, Link, Waiting};
use super::reply::Answer;
use crate::nbd::wire::PAYLOAD_LEN_DEFAULT;

/// Longest request that is made, in bytes. Long enough that a round trip is little of it, short
/// enough that one region keeps many in flight.
const REQUEST_LEN: u32 = 512 * 1024;
/// Bytes that one reading thread has in flight at most. With the requests of two threads, servers
/// that take 10 ms for each still deliver over a gigabyte a second.
const IN_FLIGHT_LEN_MAX: u64 = 8 << 20;
/// Requests that one reading thread has in flight at most.
const IN_FLIGHT_MAX: usize = 64;
/// What offsets and lengths are multiples of for a server that does not say, where its disk is.
const SECTOR_LEN: u64 = 512;
/// Buffers that are kept for reads to come: as many as one thread has in flight.
const BUFFERS_MAX: usize = 16;
/// Length from which a disk is worth more than one connection.
const SEVERAL_LINKS_FROM: u64 = 64 << 20;

/// Bytes wanted: the disk offset, and where they go.
pub type Part<'p> = (u64, &'p mut [u8]);

/// Returns what the lengths of requests are multiples of, and the longest.
pub(super) fn lengths(agreed: &Agreed) -> (u64, u32) {
    let Some(sizes) = agreed.block_sizes else {
        // The specification's advice: a disk of whole sectors is read by them.
        let is_whole = agreed.size.checked_rem(SECTOR_LEN) == Some(0);
        return (if is_whole { SECTOR_LEN } else { 1 }, REQUEST_LEN);
    };
    let maximum = sizes.maximum.min(PAYLOAD_LEN_DEFAULT).min(REQUEST_LEN);
    let rest = maximum.checked_rem(sizes.minimum).unwrap_or_default();
    let maximum = maximum.saturating_sub(rest).max(sizes.minimum);
    (sizes.minimum.into(), maximum)
}

/// Returns whether a disk of this size is worth several connections.
pub(super) fn is_worth_more(size: u64) -> bool {
    size >= SEVERAL_LINKS_FROM
}

/// Buffers of answers, kept: memory that was used a moment ago is in the processor's cache, and new
/// memory has to be made zeros first.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// Returns a buffer that holds anything.
    fn take(&self, len: usize) -> Vec<u8> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = kept.pop().unwrap_or_default();
        drop(kept);
        buffer.resize(len, 0);
        buffer
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_MAX {
            kept.push(buffer);
        }
    }
}

/// One request, and what of its bytes goes where.
#[derive(Debug)]
struct Job {
    /// What is asked for.
    request: Range<u64>,
    /// What of it is wanted.
    wanted: Range<u64>,
    part: usize,
    /// Where in the part it goes.
    at: usize,
}

impl Client {
    pub(super) fn align_down(&self, offset: u64) -> u64 {
        let over = offset.checked_rem(self.block_min).unwrap_or_default();
        offset.saturating_sub(over)
    }

    /// Rounds up, but not beyond the disk's end, where no request may go.
    pub(super) fn align_up(&self, offset: u64) -> u64 {
        let rounded = offset.checked_next_multiple_of(self.block_min);
        rounded.unwrap_or(u64::MAX).min(self.agreed.size)
    }

    /// Fills every part with the disk's bytes, with many requests in flight.
    ///
    /// # Errors
    ///
    /// The first failure; what the parts then hold is not defined.
    ///
    /// # Panics
    ///
    /// Panics if a part is not within the disk.
    pub fn read(&self, parts: &mut [Part<'_>]) -> Result<(), ClientError> {
        let jobs = self.jobs(parts);
        let (done, answers) = unbounded();
        let mut started = 0;
        let mut in_flight = 0;
        let mut bytes_in_flight = 0_u64;
        for _ in 0..jobs.len() {
            while let Some(job) = jobs.get(started) {
                let len = job.request.end.saturating_sub(job.request.start);
                let is_full = in_flight >= IN_FLIGHT_MAX
                    || bytes_in_flight.saturating_add(len) > IN_FLIGHT_LEN_MAX;
                if is_full && in_flight > 0 {
                    break;
                }
                self.start(job, started, &done);
                started = started.saturating_add(1);
                in_flight = in_flight.saturating_add(1);
                bytes_in_flight = bytes_in_flight.saturating_add(len);
            }
            let Done { tag, answer } = self.next(&answers)?;
            let job = jobs.get(tag).expect("tags are places of jobs");
            in_flight = in_flight.saturating_sub(1);
            let len = job.request.end.saturating_sub(job.request.start);
            bytes_in_flight = bytes_in_flight.saturating_sub(len);
            match answer? {
                Answer::Bytes(bytes) => {
                    deliver(job, &bytes, parts);
                    self.buffers.give_back(bytes);
                }
                Answer::Status(_) => unreachable!("what is asked for is what is answered"),
            }
        }
        Ok(())
    }

    /// Splits parts into requests.
    fn jobs(&self, parts: &[Part<'_>]) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (number, (offset, buf)) in parts.iter().enumerate() {
            let len = u64::try_from(buf.len()).expect("memory is smaller than 2^64 bytes");
            let end = offset.checked_add(len).filter(|end| *end <= self.size());
            let end = end.expect("callers read within the disk");
            let mut from = *offset;
            while from < end {
                let start = self.align_down(from);
                let longest = start.saturating_add(self.read_len_max.into());
                let wanted = from..end.min(longest);
                let at = usize::try_from(from.saturating_sub(*offset));
                jobs.push(Job {
                    request: start..self.align_up(wanted.end),
                    wanted: wanted.clone(),
                    part: number,
                    at: at.expect("within the buffer"),
                });
                from = wanted.end;
            }
        }
        jobs
    }

    fn start(&self, job: &Job, tag: usize, done: &Sender<Done>) {
        let len = job.request.end.saturating_sub(job.request.start);
        let len = usize::try_from(len).expect("requests are bounded");
        let bytes = self.buffers.take(len);
        self.link()
            .read(job.request.start, bytes, Waiting::new(tag, done.clone()));
    }

    /// Returns the next connection in turn.
    fn link(&self) -> &Link {
        let turn = self.next_link.fetch_add(1, Ordering::Relaxed);
        let place = turn.checked_rem(self.links.len()).unwrap_or_default();
        self.links.get(place).expect("there is a connection")
    }
}

/// Copies what is wanted of an answer to where it goes.
fn deliver(job: &Job, bytes: &[u8], parts: &mut [Part<'_>]) {
    let from = job.wanted.start.saturating_sub(job.request.start);
    let len = job.wanted.end.saturating_sub(job.wanted.start);
    let place = |len: u64| usize::try_from(len).expect("requests are bounded");
    let wanted = bytes
        .get(place(from)..)
        .and_then(|rest| rest.get(..place(len)));
    let (_, buf) = parts.get_mut(job.part).expect("jobs are made from parts");
    let target = buf
        .get_mut(job.at..)
        .and_then(|rest| rest.get_mut(..place(len)));
    let (wanted, target) = wanted.zip(target).expect("jobs lie within their parts");
    target.copy_from_slice(wanted);
}
