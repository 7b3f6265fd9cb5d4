//! Replies to reads: bytes, and holes where there are none.

use cairn_engine::chunker::is_zero;
use cairn_engine::nbd::wire::{ReplyHeader, Request, cmd_flag, reply_type};

use super::buffer::Buffer;
use super::reply::{chunk, chunk_header_len, set_done};
use crate::handshake::Mode;

/// Zeros are looked for in aligned blocks of this: what a hole of a snapshot is made of.
const HOLE_UNIT: u64 = 64 * 1024;
/// The shortest run of zeros that is sent as a hole. It must be longer than two headers, since a
/// reply is put together in place.
const HOLE_LEN_MIN: usize = 512;
/// Length of what describes a hole.
const HOLE_PAYLOAD_LEN: usize = 12;

/// Puts a whole reply, or all the chunks for one piece of it. `fill` reads the bytes, straight to
/// where they are sent from; if it fails, nothing is put.
pub(super) fn put_read<E>(
    out: &mut Buffer,
    mode: Mode,
    request: &Request,
    offset: u64,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    if mode == Mode::Simple {
        let (before, cookie) = (out.len(), request.cookie);
        out.put_header(ReplyHeader::Simple { error: 0, cookie });
        let filled = fill(out.room(len));
        match filled {
            Ok(()) => out.advance(len),
            Err(_) => out.truncate(before),
        }
        return filled;
    }
    let header_len = chunk_header_len(mode) + 8;
    fill(&mut out.room(header_len + len)[header_len..])?;
    let place = Place {
        mode,
        request,
        offset,
        start: out.len() + header_len,
    };
    let mut run: Option<Run> = None;
    for part in parts(offset, len, request.flags & cmd_flag::DF == 0) {
        let bytes = out.at(place.start + part.start, part.len());
        let is_hole =
            part.len() >= HOLE_LEN_MIN && request.flags & cmd_flag::DF == 0 && is_zero(bytes);
        match &mut run {
            Some(run) if run.is_hole == is_hole => run.end = part.end,
            other => {
                let next = Run {
                    start: part.start,
                    end: part.end,
                    is_hole,
                };
                if let Some(done) = other.replace(next) {
                    place.put(out, &done);
                }
            }
        }
    }
    if let Some(done) = run {
        place.put(out, &done);
    }
    set_done(out, true);
    Ok(())
}

/// Returns the parts of a piece that are looked at one by one, as offsets within it.
fn parts(offset: u64, len: usize, split: bool) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let to_boundary = HOLE_UNIT - (offset + at as u64) % HOLE_UNIT;
        let left = len - at;
        let next = match split {
            true => left.min(usize::try_from(to_boundary).unwrap_or(left)),
            false => left,
        };
        let part = at..at + next;
        at += next;
        Some(part)
    })
}

/// A run of bytes of one kind, by offsets within the piece.
struct Run {
    start: usize,
    end: usize,
    is_hole: bool,
}

/// Where a piece lies: on the disk, and in the buffer.
struct Place<'a> {
    mode: Mode,
    request: &'a Request,
    offset: u64,
    start: usize,
}

impl Place<'_> {
    /// Puts a run as a chunk. Bytes move to the front over what earlier holes left free; the first
    /// ones stand where they belong.
    fn put(&self, out: &mut Buffer, run: &Run) {
        let len = run.end - run.start;
        let offset = self.offset + run.start as u64;
        let (kind, payload_len) = match run.is_hole {
            true => (reply_type::OFFSET_HOLE, HOLE_PAYLOAD_LEN),
            false => (reply_type::OFFSET_DATA, 8 + len),
        };
        out.put_header(chunk(self.mode, self.request, 0, kind, payload_len));
        out.put(&offset.to_be_bytes());
        if run.is_hole {
            let len = u32::try_from(len).expect("a piece is short");
            out.put(&len.to_be_bytes());
        } else {
            out.pull(self.start + run.start, len);
        }
    }
}
