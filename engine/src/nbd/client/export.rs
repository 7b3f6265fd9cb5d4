//! One export, and the connections that it is read through.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use super::connect::{CANCEL_TICK, Server};
use super::error::ClientError;
use super::handshake::{Agreed, Replies};
use super::link::{Done, Link, Waiting};
use super::read::{self, Buffers};
use super::reply::{Answer, Rules};
use crate::nbd::transport::Stream;
use crate::nbd::uri::Uri;
use crate::nbd::wire::{StatusRun, flag};
use crate::progress::Cancel;

/// Most connections to one server. More gain nothing: one takes enough requests, and each has
/// its own thread at both ends.
const LINKS_MAX: usize = 4;
/// How long a further connection may take to be set up. A server that promises several and takes
/// one is known; who waits for it gains nothing.
const FURTHER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest range whose status is asked for at once, in bytes; fits 32 bits. Short enough that the
/// answer of a server that tells of every sector is one that is taken.
const STATUS_LEN_MAX: u64 = 256 << 20;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How long connecting may take, and how long a server may say nothing, or next to nothing,
    /// while an answer is due.
    pub timeout: Duration,
    /// Looked at while a server is waited for.
    pub cancel: Cancel,
}

impl Default for ClientOptions {
    /// A minute: longer than any disk's own retries.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            cancel: Cancel::default(),
        }
    }
}

/// An export of a server, to be read from any thread.
#[derive(Debug)]
pub struct Client {
    pub(super) links: Vec<Link>,
    pub(super) next_link: AtomicUsize,
    pub(super) agreed: Agreed,
    /// Offsets and lengths of requests are multiples of this, but for the disk's end.
    pub(super) block_min: u64,
    /// Longest read in bytes.
    pub(super) read_len_max: u32,
    pub(super) buffers: Buffers,
    cancel: Cancel,
}

impl Client {
    /// Connects to an export. Of the metadata contexts all but `base:allocation` must be there;
    /// [`Client::has_context`] tells whether that one is.
    ///
    /// # Errors
    ///
    /// What stands in the way; for names that the server does not have, with those that it has.
    pub fn connect(
        uri: &Uri,
        contexts: &[String],
        options: &ClientOptions,
    ) -> Result<Self, ClientError> {
        let server = Arc::new(Server::new(uri)?);
        let (stream, agreed) = server.open(contexts, options.timeout, &options.cancel)?;
        let (block_min, read_len_max) = read::lengths(&agreed);
        let mut client = Self {
            links: Vec::new(),
            next_link: AtomicUsize::new(0),
            agreed,
            block_min,
            read_len_max,
            buffers: Buffers::default(),
            cancel: options.cancel.clone(),
        };
        client.add(stream, &client.agreed.clone(), options.timeout)?;
        if client.agreed.flags & flag::CAN_MULTI_CONN != 0 && read::is_worth_more(client.size()) {
            client.add_further(&server, options.timeout)?;
        }
        Ok(client)
    }

    fn add(
        &mut self,
        stream: Stream,
        agreed: &Agreed,
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let rules = Rules {
            replies: agreed.replies,
            contexts: agreed.contexts.iter().flatten().copied().collect(),
            size: agreed.size,
            // A server that says nothing of blocks may tell the status of every byte.
            block_min: (agreed.block_sizes).map_or(1, |sizes| sizes.minimum.into()),
        };
        self.links.push(Link::start(stream, rules, timeout)?);
        Ok(())
    }

    /// Opens more connections, for reads alone; a server that does not take them is served by those
    /// it took.
    fn add_further(&mut self, server: &Arc<Server>, timeout: Duration) -> Result<(), ClientError> {
        while self.links.len() < LINKS_MAX {
            let further = server.open(&[], FURTHER_TIMEOUT.min(timeout), &self.cancel);
            let Ok((stream, agreed)) = further else {
                break;
            };
            if agreed.size != self.agreed.size {
                return Err(ClientError::SizeDiffers);
            }
            self.add(stream, &agreed, timeout)?;
        }
        Ok(())
    }

    /// Returns what offsets and lengths of requests are multiples of, but for the disk's end.
    pub fn block_min(&self) -> u64 {
        self.block_min
    }

    /// Returns the disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.agreed.size
    }

    /// Returns whether the server has the context that stood at this place among those wanted.
    pub fn has_context(&self, place: usize) -> bool {
        self.agreed.contexts.get(place).is_some_and(Option::is_some)
    }

    /// Returns how many connections there are.
    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// Returns how replies look.
    pub fn replies(&self) -> Replies {
        self.agreed.replies
    }

    /// Asks for the status of a range in all contexts that the server has. The answer begins at the
    /// offset returned, which is not after the range's start, and may end before the range does or
    /// after it; each context has runs of its own lengths.
    ///
    /// # Panics
    ///
    /// Panics if the range is empty or not within the disk, or the server has no context.
    pub fn block_status(
        &self,
        range: Range<u64>,
    ) -> Result<(u64, Vec<Vec<StatusRun>>), ClientError> {
        assert!(range.start < range.end && range.end <= self.size());
        assert!(self.agreed.contexts.iter().any(Option::is_some));
        let start = self.align_down(range.start);
        let longest = start.saturating_add(STATUS_LEN_MAX);
        let end = self.align_up(range.end).min(longest);
        let (done, answers) = unbounded();
        let first = self.links.first().expect("there is a connection");
        first.status(start, end.saturating_sub(start), Waiting::new(0, done));
        match self.next(&answers)?.answer? {
            Answer::Status(status) => Ok((start, status)),
            Answer::Bytes(_) => unreachable!("what is asked for is what is answered"),
        }
    }

    /// Waits for the end of a request. One who shall stop ends the connections, with all that
    /// others wait for.
    pub(super) fn next(&self, answers: &Receiver<Done>) -> Result<Done, ClientError> {
        loop {
            if self.cancel.is_cancelled() {
                for link in &self.links {
                    link.fail(ClientError::Cancelled);
                }
                return Err(ClientError::Cancelled);
            }
            match answers.recv_timeout(CANCEL_TICK) {
                Ok(done) => return Ok(done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ClientError::Gone),
            }
        }
    }
}
