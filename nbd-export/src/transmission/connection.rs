//! One connection: what is pending, what is being done, and what is to be sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::budget::HELD_MAX;
use super::buffer::Buffer;
use super::execute::{Action, Job, Task, Work, piece, pieces, put_panicked};
use super::pool::Pool;
use super::reader::Reader;
use super::reply::set_done;
use crate::handshake::Agreement;
use crate::log::{Event, Log};

/// Requests that wait for a worker at most; then the reader waits too.
const PENDING_MAX: usize = 256;
/// Replies that are sent in one write at most.
const BATCH_MAX: usize = 8;
/// How long a client that said goodbye may take to receive its last replies.
const LINGER: Duration = Duration::from_secs(30);
/// Stack of a thread of a connection, which does little by itself.
pub(crate) const STACK_LEN: usize = 1 << 20;

/// Where replies go.
pub trait Output: Write + Send {
    /// Tells the client that nothing more will come.
    fn finish(&mut self) -> io::Result<()>;
}

/// A connection in the transmission phase.
pub struct Connection {
    pub(super) agreement: Agreement,
    pub(super) pool: Arc<Pool>,
    pub(super) log: Arc<Log>,
    /// Held while a reply, or several, are sent.
    output: Mutex<Box<dyn Output>>,
    /// Ends the connection both ways.
    close: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    /// Something was queued, or nothing more will be.
    queued: Condvar,
    /// There is room again, or nothing is left to be done.
    freed: Condvar,
    /// The reader has a request that is neither pending nor answered.
    pub(super) is_reading: AtomicBool,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Job>,
    /// How many of those are writes, which bring their buffers.
    pending_writes: usize,
    running: usize,
    /// Replies that wait for the writer.
    queue: VecDeque<Buffer>,
    /// Buffers in `pending`, with workers, in `queue`, and with the writer and the reader.
    held: usize,
    /// The connection stands in the line of the pool.
    is_scheduled: bool,
    /// It stands in the line for a buffer, or is about to be woken.
    is_in_line: bool,
    is_writing: bool,
    is_finished: bool,
    /// Nothing can be sent any more.
    is_broken: bool,
    error: Option<io::Error>,
    writer_waits: bool,
    reader_waits: bool,
}

impl State {
    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.running == 0 && self.queue.is_empty() && !self.is_writing
    }

    /// Returns whether a worker would find something to begin.
    fn has_work(&self, running_max: usize) -> bool {
        // Who stands in line was refused a buffer, and is told when there is one.
        let may_take = self.held == 0 || (self.held < HELD_MAX && !self.is_in_line);
        let can_begin = !self.pending.is_empty() && (self.pending_writes > 0 || may_take);
        !self.is_broken && self.running < running_max && can_begin
    }
}

impl Connection {
    /// Makes a connection from what the handshake led to; `close` must wake the reader.
    pub fn new(
        agreement: Agreement,
        output: Box<dyn Output>,
        close: Box<dyn Fn() + Send + Sync>,
        pool: Arc<Pool>,
        log: Arc<Log>,
    ) -> Arc<Self> {
        Arc::new(Self {
            agreement,
            pool,
            log,
            output: Mutex::new(output),
            close,
            state: Mutex::default(),
            queued: Condvar::new(),
            freed: Condvar::new(),
            is_reading: AtomicBool::new(false),
        })
    }

    /// Answers requests until the client goes, and what it asked for until then.
    ///
    /// # Errors
    ///
    /// Why it did not end in good order. Nothing of it is left to be done in either case.
    pub fn serve(self: &Arc<Self>, input: impl Read) -> io::Result<()> {
        let writer = thread::Builder::new()
            .name("nbd-writer".to_owned())
            .stack_size(STACK_LEN);
        thread::scope(|scope| {
            let writer =
                writer.spawn_scoped(scope, || self.or_break_off(|| self.write_replies()))?;
            let read = self.or_break_off(|| Reader::new(self, input).run());
            self.is_reading.store(false, Ordering::SeqCst);
            let finished = self.finish();
            drop(writer.join());
            (self.close)();
            let lost = std::mem::take(&mut self.lock().held);
            if lost > 0 {
                self.pool.budget.write_off(lost);
                self.pool.wake_next();
            }
            read.unwrap_or(Ok(())).and(finished)
        })
    }

    /// Does what a thread of the connection is for. If it panics the connection is given up, so
    /// that the other one does not wait for it; the panic was printed where it happened.
    fn or_break_off<T>(&self, run: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(run)).ok();
        if done.is_none() {
            self.break_off(io::Error::other("a thread of the server failed"));
        }
        done
    }

    /// Returns whether all that the client asked for is answered.
    pub fn is_idle(&self) -> bool {
        !self.is_reading.load(Ordering::SeqCst) && self.lock().is_idle()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the way out, which nobody else uses until it is let go.
    pub(super) fn output(&self) -> MutexGuard<'_, Box<dyn Output>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything is sent, and then lets the writer go.
    fn finish(&self) -> io::Result<()> {
        let deadline = Instant::now() + LINGER;
        let mut state = self.lock();
        while !(state.is_idle() || state.is_broken && state.running == 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !state.is_broken {
                drop(state);
                self.break_off(io::ErrorKind::TimedOut.into());
                state = self.lock();
            }
            state.reader_waits = true;
            let left = left.max(Duration::from_millis(10));
            state = match self.freed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        state.is_finished = true;
        self.queued.notify_all();
        let error = state.error.take();
        drop(state);
        match error {
            Some(error) => Err(error),
            None => {
                // A client that is gone does not hear it.
                drop(self.output().finish());
                Ok(())
            }
        }
    }

    /// Gives the connection up: what is pending is not done any more.
    pub(super) fn break_off(&self, error: io::Error) {
        let mut state = self.lock();
        state.is_broken = true;
        state.error.get_or_insert(error);
        state.pending_writes = 0;
        let State { pending, queue, .. } = &mut *state;
        let mut buffers: Vec<Buffer> = queue.drain(..).collect();
        buffers.extend(pending.drain(..).filter_map(|job| match job.work {
            Work::Write(buffer) => Some(buffer),
            _ => None,
        }));
        self.give_back(&mut state, buffers);
        self.queued.notify_all();
        drop(state);
        (self.close)();
    }

    fn give_back(&self, state: &mut State, buffers: impl IntoIterator<Item = Buffer>) {
        for buffer in buffers {
            let waiting = self.pool.budget.give_back(buffer, state.held);
            state.held -= 1;
            if let Some(waiting) = waiting {
                self.pool.wake(waiting);
            }
        }
        self.wake_reader(state);
    }

    /// Returns a buffer if there is one for this connection; stands in line otherwise.
    fn take(self: &Arc<Self>, state: &mut State) -> Option<Buffer> {
        let State {
            held, is_in_line, ..
        } = state;
        let waiting = || {
            let is_new = !std::mem::replace(is_in_line, true);
            is_new.then(|| Arc::downgrade(self))
        };
        let buffer = self.pool.budget.take(*held, waiting)?;
        *held += 1;
        Some(buffer)
    }

    /// Looks again for a buffer, of which there may be one now.
    pub(super) fn wake(self: &Arc<Self>) {
        let mut state = self.lock();
        state.is_in_line = false;
        let has_use = !state.is_broken && (state.reader_waits || !state.pending.is_empty());
        self.wake_reader(&mut state);
        self.schedule(state);
        if !has_use {
            self.pool.wake_next();
        }
    }

    fn wake_reader(&self, state: &mut State) {
        if std::mem::take(&mut state.reader_waits) {
            self.freed.notify_all();
        }
    }

    /// Puts the connection in line if there is something to begin. Called last, as it lets the
    /// state go.
    fn schedule(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if !state.is_scheduled && state.has_work(self.pool.running_max()) {
            state.is_scheduled = true;
            drop(state);
            self.pool.schedule(Arc::clone(self));
        }
    }
}

/// For the reader.
impl Connection {
    /// Returns whether a job would have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.lock().pending.len() >= PENDING_MAX
    }

    /// Hands a job to the workers; waits while there are too many.
    pub(super) fn submit(self: &Arc<Self>, job: Job) -> io::Result<()> {
        let mut state = self.wait(|state| state.pending.len() < PENDING_MAX)?;
        state.pending_writes += usize::from(matches!(job.work, Work::Write(_)));
        state.pending.push_back(job);
        self.schedule(state);
        Ok(())
    }

    /// Returns a buffer if there is one at once.
    pub(super) fn try_buffer(&self) -> Option<Buffer> {
        let mut state = self.lock();
        let buffer = self.pool.budget.take(state.held, || None)?;
        state.held += 1;
        Some(buffer)
    }

    /// Returns a buffer; waits until there is one.
    pub(super) fn buffer(self: &Arc<Self>) -> io::Result<Buffer> {
        let mut found = None;
        drop(self.wait(|state| {
            found = self.take(state);
            found.is_some()
        })?);
        Ok(found.expect("waited for"))
    }

    /// Takes a buffer back from the reader.
    pub(super) fn return_buffer(self: &Arc<Self>, buffer: Buffer) {
        let mut state = self.lock();
        self.give_back(&mut state, [buffer]);
        self.schedule(state);
    }

    fn wait(&self, mut until: impl FnMut(&mut State) -> bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        loop {
            if state.is_broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if until(&mut state) {
                return Ok(state);
            }
            state.reader_waits = true;
            state = self
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// For the workers.
impl Connection {
    /// Takes the next task, and says whether another worker would find one too.
    pub(super) fn begin_task(self: &Arc<Self>) -> (Option<Task>, bool) {
        let mut state = self.lock();
        let running_max = self.pool.running_max();
        let task = match state.has_work(running_max) {
            true => self.next_task(&mut state),
            false => None,
        };
        // Without a buffer it stands in line for one, and one of its own is on its way: the first
        // that comes looks again.
        let has_more = task.is_some() && state.has_work(running_max);
        state.is_scheduled = has_more;
        (task, has_more)
    }

    fn next_task(self: &Arc<Self>, state: &mut State) -> Option<Task> {
        let is_write = |job: &Job| matches!(job.work, Work::Write(_));
        let (at, spare) = match is_write(state.pending.front()?) {
            true => (0, None),
            false => match self.take(state) {
                Some(spare) => (0, Some(spare)),
                // All buffers that the connection has may lie with writes behind this job: one of
                // them goes first, as no order is promised.
                None => (state.pending.iter().position(is_write)?, None),
            },
        };
        state.running += 1;
        let job = state.pending.get_mut(at)?;
        let request = job.request;
        if let Work::Read { next, left } = &mut job.work {
            let (start, end) = (request.offset, request.offset + request.len);
            let range = match pieces(&(start..end)) {
                1 => start..end,
                _ => piece(*next, end),
            };
            if range.end < end {
                *next = range.end;
                let left = Arc::clone(left);
                let action = Action::Read { range, left };
                let buffer = spare.expect("only writes bring their own");
                return Some(Task {
                    request,
                    action,
                    buffer,
                });
            }
        }
        let job = state.pending.remove(at)?;
        state.pending_writes -= usize::from(is_write(&job));
        self.wake_reader(state);
        let (action, own) = match job.work {
            Work::Read { next, left } => {
                let range = next..request.offset + request.len;
                (Action::Read { range, left }, None)
            }
            Work::Write(buffer) => (Action::Write, Some(buffer)),
            Work::Flush => (Action::Flush, None),
            Work::Trim => (Action::Trim, None),
            Work::WriteZeroes => (Action::WriteZeroes, None),
            Work::BlockStatus(ids) => (Action::BlockStatus(ids), None),
        };
        let buffer = own.or(spare).expect("only writes bring their own");
        Some(Task {
            request,
            action,
            buffer,
        })
    }

    /// Does a task and queues its reply.
    pub(super) fn run_task(self: &Arc<Self>, mut task: Task) {
        let done = catch_unwind(AssertUnwindSafe(|| {
            if let Some(error) = &task.execute(&self.agreement) {
                let export = &self.agreement.export.name;
                (self.log)(&Event::DiskFailed { export, error });
            }
        }));
        if done.is_err() {
            // The panic was printed where it happened. The client hears of it, the others go on.
            put_panicked(&mut task.buffer, &self.agreement, &task.request);
        }
        let mut state = self.lock();
        state.running -= 1;
        if let Action::Read { left, .. } = &task.action {
            // Counted under the lock, so that the chunk that says "done" is queued last.
            let left = left.fetch_sub(1, Ordering::Relaxed) - 1;
            if left > 0 {
                set_done(&mut task.buffer, false);
            }
        }
        if state.is_broken {
            self.give_back(&mut state, [task.buffer]);
        } else {
            state.queue.push_back(task.buffer);
            if std::mem::take(&mut state.writer_waits) {
                self.queued.notify_one();
            }
        }
        self.schedule(state);
    }
}

/// For the writer.
impl Connection {
    /// Sends what is queued until nothing more will be.
    fn write_replies(self: &Arc<Self>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let mut state = self.lock();
            state.is_writing = false;
            self.give_back(&mut state, batch.drain(..));
            while state.queue.is_empty() {
                if state.is_finished {
                    return;
                }
                if state.has_work(self.pool.running_max()) && !state.is_scheduled {
                    self.schedule(state);
                    state = self.lock();
                    continue;
                }
                state.writer_waits = true;
                state = self
                    .queued
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let count = state.queue.len().min(BATCH_MAX);
            batch.extend(state.queue.drain(..count));
            state.is_writing = true;
            self.schedule(state);
            let parts = batch.iter().map(|buffer| IoSlice::new(buffer.filled()));
            let parts: Vec<IoSlice<'_>> = parts.collect();
            let sent = write_all_parts(&mut **self.output(), parts);
            if let Err(error) = sent {
                self.break_off(error);
            }
        }
    }
}

fn write_all_parts(output: &mut dyn Output, mut parts: Vec<IoSlice<'_>>) -> io::Result<()> {
    let mut parts = parts.as_mut_slice();
    while !parts.is_empty() {
        match output.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut parts, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
