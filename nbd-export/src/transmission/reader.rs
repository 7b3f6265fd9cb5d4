//! Takes requests in: answers what it can at once, and hands the rest to the workers.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cairn_engine::nbd::wire::{
    ErrorChunk, ReplyHeader, Request, cmd, cmd_flag, reply_flag, reply_type,
};

use super::PIECE_LEN;
use super::buffer::Buffer;
use super::connection::Connection;
use super::execute::{Job, Work, flush_if_asked, piece, pieces};
use super::inbox::Inbox;
use super::read::put_read;
use super::reply::{chunk, disk_error, put_done, put_error};
use super::rules::{self, Refusal, SKIPPED_MAX, StatusPayload};
use crate::disk::DiskError;
use crate::exports::Export;
use crate::handshake::Mode;
use crate::log::Event;

/// The disk cannot answer at once.
struct NotNear;

pub(super) struct Reader<'c, R> {
    connection: &'c Arc<Connection>,
    inbox: Inbox<R>,
    /// Replies that were not sent yet.
    out: Buffer,
    mode: Mode,
}

impl<'c, R: Read> Reader<'c, R> {
    pub(super) fn new(connection: &'c Arc<Connection>, input: R) -> Self {
        Self {
            connection,
            inbox: Inbox::new(input),
            out: Buffer::new(),
            mode: connection.agreement.mode,
        }
    }

    /// Goes on until the client goes.
    pub(super) fn run(mut self) -> io::Result<()> {
        let ended = loop {
            match self.next() {
                Ok(true) => {}
                Ok(false) => break self.send(),
                Err(error) => break Err(error),
            }
        };
        self.connection.is_reading.store(false, Ordering::SeqCst);
        ended.inspect_err(|error| self.connection.break_off(error.kind().into()))
    }

    fn export(&self) -> &'c Export {
        &self.connection.agreement.export
    }

    /// Sends the replies so far.
    fn send(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.connection.output().write_all(self.out.filled())?;
            self.out.clear();
        }
        Ok(())
    }

    /// Takes one request; returns whether more may come.
    fn next(&mut self) -> io::Result<bool> {
        let is_extended = self.mode == Mode::Extended;
        let len = Request::header_len(is_extended);
        if self.inbox.buffered() < len {
            self.send()?;
            self.connection.is_reading.store(false, Ordering::SeqCst);
        }
        let Some(header) = self.inbox.header(len)? else {
            return Ok(false);
        };
        self.connection.is_reading.store(true, Ordering::SeqCst);
        if self.connection.pool.is_stopping() {
            // An error would be handed to the guest; who loses the connection asks again, the
            // next server.
            return Ok(false);
        }
        // What does not begin like a request was never one; nobody knows where the next begins.
        let request = Request::decode(&header[..len], is_extended)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if request.command == cmd::DISC {
            return Ok(false);
        }
        self.answer(request)?;
        if self.out.len() >= PIECE_LEN {
            self.send()?;
        }
        Ok(true)
    }

    fn answer(&mut self, mut request: Request) -> io::Result<()> {
        let payload_len = rules::payload_len(&request, self.mode);
        let agreement = &self.connection.agreement;
        let mut contexts: Vec<u32> = Vec::new();
        let mut rest = payload_len;
        let is_filtered = request.command == cmd::BLOCK_STATUS
            && request.flags & cmd_flag::PAYLOAD_LEN != 0
            && agreement.takes_status_payload();
        if is_filtered {
            if payload_len > StatusPayload::len_max(agreement) as u64 {
                return self.refuse(&request, StatusPayload::TOO_LONG, rest);
            }
            rest = 0;
            match self.status_payload(payload_len)? {
                Ok(payload) => (request.len, contexts) = (payload.len, payload.contexts),
                Err(refusal) => return self.refuse(&request, refusal, rest),
            }
        } else if request.command == cmd::BLOCK_STATUS {
            contexts = (0..).take(agreement.contexts.len()).collect();
        }
        if let Err(refusal) = rules::check(&request, agreement) {
            return self.refuse(&request, refusal, rest);
        }
        match request.command {
            cmd::READ => self.read(request),
            cmd::WRITE => self.write(request),
            cmd::CACHE => {
                let range = request.offset..request.offset + request.len;
                self.export().disk.prefetch(range);
                put_done(&mut self.out, self.mode, &request);
                Ok(())
            }
            cmd::FLUSH => self.submit(request, Work::Flush),
            cmd::TRIM => self.submit(request, Work::Trim),
            cmd::WRITE_ZEROES => self.submit(request, Work::WriteZeroes),
            cmd::BLOCK_STATUS => self.submit(request, Work::BlockStatus(contexts)),
            _ => unreachable!("the rules know no other command"),
        }
    }

    fn status_payload(&mut self, len: u64) -> io::Result<Result<StatusPayload, Refusal>> {
        let mut payload = vec![0; usize::try_from(len).expect("checked to be short")];
        self.inbox.payload(&mut payload)?;
        Ok(StatusPayload::decode(&payload, &self.connection.agreement))
    }

    /// Refuses a request, whose payload still stands in the way.
    fn refuse(&mut self, request: &Request, refusal: Refusal, payload_len: u64) -> io::Result<()> {
        if payload_len > SKIPPED_MAX {
            let text = "a request announces a payload that nobody takes";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.inbox.skip(payload_len)?;
        let error = ErrorChunk {
            error: refusal.errno,
            message: refusal.text.to_owned(),
            offset: None,
        };
        put_error(&mut self.out, self.mode, request, error);
        Ok(())
    }

    fn submit(&mut self, request: Request, work: Work) -> io::Result<()> {
        if self.connection.is_full() {
            self.send()?;
        }
        self.connection.submit(Job { request, work })
    }

    /// Tells the client, and whoever runs the server, that the disk failed.
    fn put_disk_error(&mut self, request: &Request, error: &DiskError, offset: Option<u64>) {
        let export = &self.export().name;
        (self.connection.log)(&Event::DiskFailed { export, error });
        put_error(&mut self.out, self.mode, request, disk_error(error, offset));
    }

    fn read(&mut self, request: Request) -> io::Result<()> {
        if request.len == 0 {
            put_done(&mut self.out, self.mode, &request);
            return Ok(());
        }
        let disk = &self.export().disk;
        let len = usize::try_from(request.len).expect("checked to be at most 64 MiB");
        if len <= PIECE_LEN {
            let fill = |buf: &mut [u8]| match disk.try_read_at(request.offset, buf) {
                true => Ok(()),
                false => Err(NotNear),
            };
            let (out, offset) = (&mut self.out, request.offset);
            if put_read(out, self.mode, &request, offset, len, fill).is_ok() {
                return Ok(());
            }
        } else if self.mode == Mode::Simple || request.flags & cmd_flag::DF != 0 {
            return self.read_unbroken(&request);
        }
        let range = request.offset..request.offset + request.len;
        let left = Arc::new(AtomicUsize::new(pieces(&range)));
        let next = request.offset;
        self.submit(request, Work::Read { next, left })
    }

    /// Answers a long read in one chunk, piece by piece.
    fn read_unbroken(&mut self, request: &Request) -> io::Result<()> {
        self.send()?;
        let mut buffer = self.take_buffer()?;
        let sent = self.send_unbroken(request, &mut buffer);
        self.connection.return_buffer(buffer);
        match sent? {
            Some((at, error)) => self.put_disk_error(request, &error, Some(at)),
            None if self.mode == Mode::Simple => {}
            None => {
                let done = chunk(self.mode, request, reply_flag::DONE, reply_type::NONE, 0);
                self.out.put_header(done);
            }
        }
        Ok(())
    }

    /// Sends the bytes of a long read; nothing else is sent meanwhile. Returns where the disk
    /// failed, if the client can still be told.
    fn send_unbroken(
        &self,
        request: &Request,
        buffer: &mut Buffer,
    ) -> io::Result<Option<(u64, DiskError)>> {
        let (start, end) = (request.offset, request.offset + request.len);
        let mut failed = None;
        let mut output = None;
        // Dropped before the way out is let go.
        let mut promise = Promise {
            connection: self.connection,
            is_open: false,
        };
        let mut at = start;
        while at < end {
            let range = piece(at, end);
            let bytes = buffer.room(len_of(&range));
            if failed.is_none()
                && let Err(error) = self.export().disk.read_at(at, bytes)
            {
                if at > start && self.mode == Mode::Simple {
                    // The client was promised bytes that are not there: it must not get others.
                    let export = &self.export().name;
                    let error = &error;
                    (self.connection.log)(&Event::DiskFailed { export, error });
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                failed = Some((at, error));
                if at == start {
                    break;
                }
            }
            if failed.is_some() {
                bytes.fill(0);
            }
            let output = output.get_or_insert_with(|| self.connection.output());
            if at == start {
                promise.is_open = true;
                output.write_all(self.unbroken_head(request).filled())?;
            }
            output.write_all(bytes)?;
            at = range.end;
        }
        promise.is_open = false;
        Ok(failed)
    }

    fn unbroken_head(&self, request: &Request) -> Buffer {
        let mut head = Buffer::new();
        if self.mode == Mode::Simple {
            let cookie = request.cookie;
            head.put_header(ReplyHeader::Simple { error: 0, cookie });
        } else {
            let len = usize::try_from(request.len).expect("checked to be at most 64 MiB");
            let kind = reply_type::OFFSET_DATA;
            head.put_header(chunk(self.mode, request, 0, kind, 8 + len));
            head.put(&request.offset.to_be_bytes());
        }
        head
    }

    fn take_buffer(&mut self) -> io::Result<Buffer> {
        match self.connection.try_buffer() {
            Some(buffer) => Ok(buffer),
            None => {
                self.send()?;
                self.connection.buffer()
            }
        }
    }

    fn write(&mut self, request: Request) -> io::Result<()> {
        let len = usize::try_from(request.len).expect("checked to be at most 64 MiB");
        let mut buffer = self.take_buffer()?;
        if len > PIECE_LEN {
            let written = self.write_pieces(&request, &mut buffer);
            self.connection.return_buffer(buffer);
            return written;
        }
        if self.inbox.buffered() < len {
            self.send()?;
        }
        self.inbox.payload(buffer.room(len))?;
        buffer.advance(len);
        self.submit(request, Work::Write(buffer))
    }

    /// Takes a long write in piece by piece. After a piece that fails the rest is taken and
    /// dropped.
    fn write_pieces(&mut self, request: &Request, buffer: &mut Buffer) -> io::Result<()> {
        self.send()?;
        let export = self.export();
        let writer = export.disk.writer().expect("the rules asked for one");
        let end = request.offset + request.len;
        let mut at = request.offset;
        let mut written = Ok(());
        while at < end {
            let range = piece(at, end);
            let bytes = buffer.room(len_of(&range));
            self.inbox.payload(bytes)?;
            if written.is_ok() {
                written = writer.write_at(at, bytes);
            }
            at = range.end;
        }
        match written.and_then(|()| flush_if_asked(writer, request)) {
            Ok(()) => put_done(&mut self.out, self.mode, request),
            Err(error) => self.put_disk_error(request, &error, None),
        }
        Ok(())
    }
}

/// Bytes that a client was promised. Where they do not come the connection is given up, before
/// other replies can be taken for them.
struct Promise<'c> {
    connection: &'c Connection,
    is_open: bool,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        if self.is_open {
            let error = io::ErrorKind::ConnectionAborted.into();
            self.connection.break_off(error);
        }
    }
}

fn len_of(range: &std::ops::Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a piece is short")
}
