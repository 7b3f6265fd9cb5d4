//! What workers do: one request, or one piece of a long read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use cairn_engine::nbd::wire::{BlockStatus, ErrorChunk, Request, cmd_flag};

use super::PIECE_LEN;
use super::buffer::Buffer;
use super::read::put_read;
use super::reply::{disk_error, put_done, put_error, put_status};
use super::status;
use crate::disk::{DiskError, WriteDisk};
use crate::exports::Export;
use crate::handshake::Agreement;

/// Runs of one reply with the status of blocks, of all contexts together.
const STATUS_RUNS_MAX: usize = 8192;

/// A request that waits for a worker.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) work: Work,
}

/// What is to be done.
pub(super) enum Work {
    /// Read from `next` to the end of the request, in as many pieces as `left` counts.
    Read {
        next: u64,
        left: Arc<AtomicUsize>,
    },
    /// Write what the buffer holds.
    Write(Buffer),
    Flush,
    Trim,
    WriteZeroes,
    /// Tell the status in the contexts of these ids.
    BlockStatus(Vec<u32>),
}

/// What one worker does at a time.
pub(super) struct Task {
    pub(super) request: Request,
    pub(super) action: Action,
    /// Room for the reply.
    pub(super) buffer: Buffer,
}

pub(super) enum Action {
    /// A piece; the last one to be done ends the reply.
    Read {
        range: Range<u64>,
        left: Arc<AtomicUsize>,
    },
    /// The payload stands in the buffer.
    Write,
    Flush,
    Trim,
    WriteZeroes,
    BlockStatus(Vec<u32>),
}

/// Returns the first piece of a range that is longer than [`PIECE_LEN`], or the rest of one: no
/// piece crosses a multiple of that.
pub(super) fn piece(next: u64, end: u64) -> Range<u64> {
    let boundary = (next / PIECE_LEN as u64 + 1).saturating_mul(PIECE_LEN as u64);
    next..end.min(boundary)
}

/// Returns how many pieces a range has. A short one is a single piece wherever it lies, so that
/// its reply can be a single chunk.
pub(super) fn pieces(range: &Range<u64>) -> usize {
    if range.end - range.start <= PIECE_LEN as u64 {
        return 1;
    }
    let first = range.start / PIECE_LEN as u64;
    let last = (range.end - 1) / PIECE_LEN as u64;
    usize::try_from(last - first + 1).expect("reads are bounded")
}

impl Task {
    /// Does it, and leaves the reply in the buffer. Returns what went wrong with the disk.
    pub(super) fn execute(&mut self, agreement: &Agreement) -> Option<DiskError> {
        let (mode, export) = (agreement.mode, &*agreement.export);
        let Self {
            request,
            action,
            buffer,
        } = self;
        let (done, offset) = match action {
            Action::Read { range, .. } => {
                let len = usize::try_from(range.end - range.start).expect("a piece is short");
                let fill = |buf: &mut [u8]| export.disk.read_at(range.start, buf);
                let read = put_read(buffer, mode, request, range.start, len, fill);
                (read, Some(range.start))
            }
            Action::BlockStatus(ids) => {
                let told = put_statuses(buffer, agreement, request, ids);
                (told, Some(request.offset))
            }
            writing => {
                let written = write(export, request, writing, buffer);
                buffer.clear();
                if written.is_ok() {
                    put_done(buffer, mode, request);
                }
                (written, None)
            }
        };
        let error = done.err()?;
        buffer.clear();
        put_error(buffer, mode, request, disk_error(&error, offset));
        Some(error)
    }
}

fn write(
    export: &Export,
    request: &Request,
    action: &Action,
    buffer: &Buffer,
) -> Result<(), DiskError> {
    let Some(writer) = export.disk.writer() else {
        // Only flushing comes this far, and nothing was written.
        return Ok(());
    };
    // A flush has no range: what its request says of one was not checked.
    if matches!(action, Action::Flush) {
        return writer.flush();
    }
    let range = request.offset..request.offset + request.len;
    match action {
        Action::Write => writer.write_at(request.offset, buffer.filled())?,
        Action::Trim => writer.trim(range)?,
        Action::WriteZeroes => {
            let keep_allocated = request.flags & cmd_flag::NO_HOLE != 0;
            writer.write_zeroes(range, keep_allocated)?;
        }
        _ => unreachable!("the others do not write"),
    }
    flush_if_asked(writer, request)
}

/// Makes a write durable if its request says so.
pub(super) fn flush_if_asked(writer: &dyn WriteDisk, request: &Request) -> Result<(), DiskError> {
    match request.flags & cmd_flag::FUA {
        0 => Ok(()),
        _ => writer.flush(),
    }
}

fn put_statuses(
    buffer: &mut Buffer,
    agreement: &Agreement,
    request: &Request,
    ids: &[u32],
) -> Result<(), DiskError> {
    let range = request.offset..request.offset + request.len;
    let runs_max = match request.flags & cmd_flag::REQ_ONE {
        0 => STATUS_RUNS_MAX / ids.len().max(1),
        _ => 1,
    };
    for (number, id) in ids.iter().enumerate() {
        let context = usize::try_from(*id).expect("ids were checked");
        let context = agreement.contexts[context];
        let runs = status::runs(&agreement.export, context, range.clone(), runs_max)?;
        let status = BlockStatus { context: *id, runs };
        let is_last = number + 1 == ids.len();
        put_status(buffer, agreement.mode, request, &status, is_last);
    }
    Ok(())
}

/// What a client is told when a worker gave up.
pub(super) fn put_panicked(buffer: &mut Buffer, agreement: &Agreement, request: &Request) {
    let error = ErrorChunk {
        error: cairn_engine::nbd::wire::errno::EIO,
        message: "the server failed".to_owned(),
        offset: None,
    };
    buffer.clear();
    put_error(buffer, agreement.mode, request, error);
}
