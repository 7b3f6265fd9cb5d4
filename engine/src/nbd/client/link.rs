//! One connection in its transmission phase: many requests in flight, and a thread that takes the
//! replies in whatever order they come.
//!
//! The lock of the table is never held while the socket is waited for. The receiving thread never
//! waits for anything but the socket, so a server that sends before it reads is no deadlock.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender as Channel;

use super::error::ClientError;
use super::handshake::Replies;
use super::reply::{self, Answer, Exchange, Rules};
use crate::nbd::transport::{Closer, Receiver, Sender, Stream};
use crate::nbd::wire::{Request, cmd};
use crate::threads::Joined;

/// Bytes that are read from the socket at once where a header is expected; payloads that are longer
/// go past the buffer.
const HEADERS_LEN: usize = 16 * 1024;
/// Bytes that count as an answer where none has ended: a server that sends less than this in all
/// the time it has is not slow, it holds us up.
const PROGRESS_LEN: u64 = 64 * 1024;
/// Longest time between two looks at the clock while a server says nothing.
const TICK_MAX: Duration = Duration::from_secs(1);
/// No time at all would be for ever.
const TICK_MIN: Duration = Duration::from_millis(1);

/// The end of one request.
#[derive(Debug)]
pub(super) struct Done {
    /// What the caller called it.
    pub(super) tag: usize,
    /// What it got.
    pub(super) answer: Result<Answer, ClientError>,
}

/// Who waits for a request. Gets an answer whatever happens, also where a panic loses the request.
#[derive(Debug)]
pub(super) struct Waiting {
    tag: usize,
    done: Option<Channel<Done>>,
}

impl Waiting {
    pub(super) fn new(tag: usize, done: Channel<Done>) -> Self {
        let done = Some(done);
        Self { tag, done }
    }

    fn end(mut self, answer: Result<Answer, ClientError>) {
        self.tell(answer);
    }

    fn tell(&mut self, answer: Result<Answer, ClientError>) {
        let tag = self.tag;
        if let Some(done) = self.done.take() {
            // Who waited may have given up at an earlier failure.
            drop(done.send(Done { tag, answer }));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.tell(Err(ClientError::Gone));
    }
}

/// A request in flight.
#[derive(Debug)]
struct InFlight {
    exchange: Exchange,
    waiting: Waiting,
}

#[derive(Debug)]
struct Table {
    in_flight: HashMap<u64, InFlight>,
    /// How many requests have not ended, with the one that a reply is being taken for.
    unanswered: usize,
    /// When a request ended, enough bytes came, or the first request was sent.
    progress: Instant,
    /// Bytes that have come since.
    received: u64,
    /// Why the connection is over.
    failure: Option<Arc<ClientError>>,
}

impl Table {
    fn new() -> Self {
        Self {
            in_flight: HashMap::new(),
            unanswered: 0,
            progress: Instant::now(),
            received: 0,
            failure: None,
        }
    }

    fn begin(&mut self, cookie: u64, request: InFlight) {
        if self.unanswered == 0 {
            self.mark_progress();
        }
        self.unanswered = self.unanswered.saturating_add(1);
        self.in_flight.insert(cookie, request);
    }

    fn mark_progress(&mut self) {
        self.progress = Instant::now();
        self.received = 0;
    }
}

/// What the threads of a connection share.
#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    closer: Closer,
    rules: Rules,
    timeout: Duration,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is one call; a panic leaves none half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection, and with it all that is in flight. The first failure counts.
    fn fail(&self, error: ClientError) {
        let mut table = self.table();
        let failure = Arc::clone(table.failure.get_or_insert_with(|| Arc::new(error)));
        let orphans = std::mem::take(&mut table.in_flight);
        drop(table);
        self.closer.close();
        for (_, request) in orphans {
            request.waiting.end(Err(Arc::clone(&failure).into()));
        }
    }

    /// Counts bytes that came, and returns whether the server lets requests wait for longer than
    /// any should, in which it does nothing or next to nothing.
    fn is_overdue(&self, received: usize) -> bool {
        let mut table = self.table();
        let received = u64::try_from(received).unwrap_or(u64::MAX);
        table.received = table.received.saturating_add(received);
        if table.received >= PROGRESS_LEN {
            table.mark_progress();
        }
        table.unanswered > 0 && table.progress.elapsed() >= self.timeout
    }
}

/// What a connection receives, waited for as long as the server has time to answer.
struct Patient<'p> {
    shared: &'p Shared,
    receiver: Receiver,
}

impl Read for Patient<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.receiver.read(buf);
            let is_overdue = self.shared.is_overdue(*read.as_ref().unwrap_or(&0));
            match read {
                // Its end, and its failure, are to be told as they are.
                Ok(1..) if is_overdue => return Err(ErrorKind::TimedOut.into()),
                Err(error) if error.kind() == ErrorKind::TimedOut && !is_overdue => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

/// A connection that requests can be sent on from any thread.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    sender: Mutex<Sender>,
    next_cookie: AtomicU64,
    receiving: Option<Joined>,
}

impl Link {
    /// Takes over a connection that has chosen its export.
    pub(super) fn start(
        stream: Stream,
        rules: Rules,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        stream.set_timeout(Some(timeout))?;
        let tick = timeout.div_f32(8.0).clamp(TICK_MIN, TICK_MAX);
        stream.set_read_timeout(Some(tick))?;
        let shared = Arc::new(Shared {
            table: Mutex::new(Table::new()),
            closer: stream.closer()?,
            rules,
            timeout,
        });
        let (receiver, sender) = stream.split();
        let for_thread = Arc::clone(&shared);
        let receiving = Joined::start("nbd-replies", move || receive(&for_thread, receiver))?;
        Ok(Self {
            shared,
            sender: Mutex::new(sender),
            next_cookie: AtomicU64::new(1),
            receiving: Some(receiving),
        })
    }

    /// Ends the connection and all that is in flight on it, from any thread.
    pub(super) fn fail(&self, error: ClientError) {
        self.shared.fail(error);
    }

    /// Asks for as many bytes as there is room for. The answer goes to `waiting`, also where
    /// sending fails.
    pub(super) fn read(&self, offset: u64, bytes: Vec<u8>, waiting: Waiting) {
        let len = u64::try_from(bytes.len()).expect("requests are bounded");
        let exchange = Exchange::read(offset, bytes);
        self.send(cmd::READ, offset, len, exchange, waiting);
    }

    /// Asks for the status of a range. The answer goes to `waiting`, also where sending fails.
    pub(super) fn status(&self, offset: u64, len: u64, waiting: Waiting) {
        let contexts = self.shared.rules.contexts.len();
        let exchange = Exchange::status(offset, len, contexts);
        self.send(cmd::BLOCK_STATUS, offset, len, exchange, waiting);
    }

    fn send(&self, command: u16, offset: u64, len: u64, exchange: Exchange, waiting: Waiting) {
        let cookie = self.next_cookie.fetch_add(1, Ordering::Relaxed);
        let mut table = self.shared.table();
        if let Some(failure) = &table.failure {
            let failure = Arc::clone(failure);
            drop(table);
            return waiting.end(Err(failure.into()));
        }
        table.begin(cookie, InFlight { exchange, waiting });
        drop(table);
        if let Err(error) = self.send_request(command, cookie, offset, len) {
            self.shared.fail(error);
        }
    }

    fn send_request(
        &self,
        command: u16,
        cookie: u64,
        offset: u64,
        len: u64,
    ) -> Result<(), ClientError> {
        let mut header = Vec::new();
        let request = Request {
            flags: 0,
            command,
            cookie,
            offset,
            len,
        };
        request.encode(self.shared.rules.replies == Replies::Extended, &mut header);
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sender.write_all_parts(&[IoSlice::new(&header)]);
        sent.map_err(|error| silence(error, self.shared.timeout))
    }
}

/// Says goodbye, and waits for the thread.
impl Drop for Link {
    fn drop(&mut self) {
        // The server finds the end of the stream if it does not get this.
        drop(self.send_request(cmd::DISC, 0, 0, 0));
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        drop(sender.finish());
        self.shared.closer.close();
        // No answer is awaited any more.
        drop(self.receiving.take());
    }
}

/// Ends all that is in flight, however the receiving thread ends: who waits must not wait for ever,
/// not even for a thread that has panicked.
struct End<'e>(&'e Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        // A failure that has been told before stays the one that counts.
        self.0.fail(ClientError::Gone);
    }
}

/// Takes replies until the connection ends.
fn receive(shared: &Shared, receiver: Receiver) {
    let _end = End(shared);
    let patient = Patient { shared, receiver };
    let mut input = BufReader::with_capacity(HEADERS_LEN, patient);
    loop {
        if let Err(error) = receive_one(shared, &mut input) {
            return shared.fail(error);
        }
    }
}

fn receive_one(shared: &Shared, input: &mut impl BufRead) -> Result<(), ClientError> {
    let silence = |error| silence(error, shared.timeout);
    if input.fill_buf().map_err(silence)?.is_empty() {
        return Err(ClientError::Gone);
    }
    let in_time = |error| match error {
        ClientError::Io(error) => silence(error),
        other => other,
    };
    let header = reply::read_header(input, &shared.rules).map_err(in_time)?;
    let cookie = reply::cookie(&header);
    let request = shared.table().in_flight.remove(&cookie);
    let mut request = request.ok_or(ClientError::protocol("a reply to no request"))?;
    let received = reply::receive(input, &shared.rules, &header, &mut request.exchange);
    match received.map_err(in_time) {
        Ok(false) => {
            shared.table().in_flight.insert(cookie, request);
            Ok(())
        }
        Ok(true) => {
            let mut table = shared.table();
            table.unanswered = table.unanswered.saturating_sub(1);
            table.mark_progress();
            drop(table);
            let (answer, ended) = match request.exchange.finish() {
                Err(error) if !matches!(error, ClientError::Failed { .. }) => {
                    let failure = Arc::new(error);
                    (Err(Arc::clone(&failure).into()), Err(failure.into()))
                }
                answer => (answer, Ok(())),
            };
            request.waiting.end(answer);
            ended
        }
        Err(error) => {
            shared.table().in_flight.insert(cookie, request);
            Err(error)
        }
    }
}

/// Gives the timeout of a socket its meaning.
fn silence(error: std::io::Error, timeout: Duration) -> ClientError {
    match error.kind() {
        ErrorKind::TimedOut => ClientError::TimedOut {
            seconds: timeout.as_secs(),
        },
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_request_that_is_lost_is_told() {
        let (done, answers) = crossbeam_channel::unbounded();
        drop(Waiting::new(7, done.clone()));
        let Done { tag, answer } = answers.try_recv().expect("it is told");
        assert!(tag == 7 && matches!(answer, Err(ClientError::Gone)));
        let answer = Ok(Answer::Bytes(Vec::new()));
        Waiting::new(8, done).end(answer);
        assert!(answers.try_recv().is_ok_and(|done| done.answer.is_ok()));
        assert!(answers.try_recv().is_err(), "told once");
    }
}
