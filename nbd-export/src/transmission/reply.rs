//! Replies, as each kind of client wants them.

use std::error::Error;

use cairn_engine::nbd::wire::{
    BlockStatus, ErrorChunk, ReplyHeader, Request, errno, reply_flag, reply_type,
};

use super::buffer::Buffer;
use crate::disk::DiskError;
use crate::handshake::Mode;

/// Returns the header of a chunk; only clients that know structured replies get chunks.
pub(super) fn chunk(
    mode: Mode,
    request: &Request,
    flags: u16,
    kind: u16,
    len: usize,
) -> ReplyHeader {
    assert!(mode >= Mode::Structured, "a simple reply has no chunks");
    let cookie = request.cookie;
    match mode {
        Mode::Extended => ReplyHeader::Extended {
            flags,
            kind,
            cookie,
            offset: request.offset,
            len: len as u64,
        },
        _ => ReplyHeader::Structured {
            flags,
            kind,
            cookie,
            len: u32::try_from(len).expect("no chunk is longer than a request"),
        },
    }
}

/// Returns the length of a chunk's header.
pub(super) fn chunk_header_len(mode: Mode) -> usize {
    match mode {
        Mode::Extended => 32,
        _ => 20,
    }
}

/// Puts a reply that only says that it is done.
pub(super) fn put_done(out: &mut Buffer, mode: Mode, request: &Request) {
    out.put_header(match mode {
        Mode::Simple => ReplyHeader::Simple {
            error: 0,
            cookie: request.cookie,
        },
        _ => chunk(mode, request, reply_flag::DONE, reply_type::NONE, 0),
    });
}

/// Puts a reply that says why not.
pub(super) fn put_error(out: &mut Buffer, mode: Mode, request: &Request, error: ErrorChunk) {
    if mode == Mode::Simple {
        let (error, cookie) = (error.error, request.cookie);
        return out.put_header(ReplyHeader::Simple { error, cookie });
    }
    let mut payload = Vec::new();
    error.encode(&mut payload);
    let kind = error.kind();
    out.put_header(chunk(mode, request, reply_flag::DONE, kind, payload.len()));
    out.put(&payload);
}

/// Puts the status of one context.
pub(super) fn put_status(
    out: &mut Buffer,
    mode: Mode,
    request: &Request,
    status: &BlockStatus,
    is_last: bool,
) {
    let extended = mode == Mode::Extended;
    let mut payload = Vec::new();
    status.encode(extended, &mut payload);
    let kind = match extended {
        true => reply_type::BLOCK_STATUS_EXT,
        false => reply_type::BLOCK_STATUS,
    };
    let flags = if is_last { reply_flag::DONE } else { 0 };
    out.put_header(chunk(mode, request, flags, kind, payload.len()));
    out.put(&payload);
}

/// Says whether the last chunk that was put is the last of its reply.
pub(super) fn set_done(out: &mut Buffer, is_done: bool) {
    let flags = if is_done { reply_flag::DONE } else { 0 };
    // Of structured and of extended headers: a magic number of four bytes, then the flags.
    out.last_mut()[4..6].copy_from_slice(&flags.to_be_bytes());
}

/// Returns what a client is told about a disk that failed: a number, and the causes in one line.
pub(crate) fn disk_error(error: &DiskError, offset: Option<u64>) -> ErrorChunk {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        message.push_str(": ");
        message.push_str(&source.to_string());
        cause = source.source();
    }
    ErrorChunk {
        error: number(error),
        message,
        offset,
    }
}

fn number(error: &DiskError) -> u32 {
    use rustix::io::Errno;
    let DiskError::Overlay { source, .. } = error else {
        return errno::EIO;
    };
    match Errno::from_io_error(source) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => errno::ENOSPC,
        Some(Errno::PERM | Errno::ACCESS | Errno::ROFS) => errno::EPERM,
        Some(Errno::NOMEM) => errno::ENOMEM,
        _ => errno::EIO,
    }
}
