//! Requests off the stream, many at one read.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use std::io::{self, Read};

use cairn_engine::nbd::wire::EXTENDED_REQUEST_LEN;

/// Bytes read at once: some hundred requests, or a small write with its payload.
const INBOX_LEN: usize = 32 * 1024;

/// A stream of requests and payloads.
pub(super) struct Inbox<R> {
    input: R,
    bytes: Vec<u8>,
    /// Bytes that were read and not yet taken.
    start: usize,
    end: usize,
}

impl<R: Read> Inbox<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            bytes: vec![0; INBOX_LEN],
            start: 0,
            end: 0,
        }
    }

    /// Returns how much can be taken without waiting for the client.
    pub(super) fn buffered(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    fn ready(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
    }

    /// Reads more behind what there is; returns whether there was more.
    fn fill(&mut self) -> io::Result<bool> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end = self.buffered();
        self.start = 0;
        let room = self.bytes.get_mut(self.end..).unwrap_or_default();
        let read = loop {
            match self.input.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.end = self.end.saturating_add(read);
        Ok(read > 0)
    }

    /// Takes the header of a request, `len` bytes at the front of what it returns; `None` if the
    /// stream ends before it begins.
    pub(super) fn header(&mut self, len: usize) -> io::Result<Option<[u8; EXTENDED_REQUEST_LEN]>> {
        while self.buffered() < len {
            if !self.fill()? {
                return match self.buffered() {
                    0 => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
        let mut header = [0; EXTENDED_REQUEST_LEN];
        if let (Some(to), Some(from)) = (header.get_mut(..len), self.ready().get(..len)) {
            to.copy_from_slice(from);
        }
        self.consume(len);
        Ok(Some(header))
    }

    /// Takes as many bytes as fit into `buf`.
    pub(super) fn payload(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let ready = self.ready();
        let split = ready.len().min(buf.len());
        let (front, rest) = buf.split_at_mut(split);
        front.copy_from_slice(ready.get(..split).unwrap_or_default());
        self.consume(split);
        self.input.read_exact(rest)
    }

    /// Takes bytes that nobody looks at.
    pub(super) fn skip(&mut self, len: u64) -> io::Result<()> {
        let ready = u64::try_from(self.buffered()).unwrap_or(u64::MAX).min(len);
        self.consume(usize::try_from(ready).unwrap_or(usize::MAX));
        let rest = len.saturating_sub(ready);
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink())?;
        match skipped == rest {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
