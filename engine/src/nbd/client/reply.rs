//! Replies of the transmission phase: every word of the server's is checked against what was asked
//! before it is believed, and before memory is taken for it.
//!
//! A reply that breaks a rule ends the connection, since what follows it could be anything.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use super::error::{ClientError, ServerFailure};
use super::handshake::Replies;
use crate::nbd::wire::{
    self, BlockStatus, ErrorChunk, ReplyHeader, StatusRun, reply_flag, reply_type,
};

/// Longest payload of an error: a message of 16 bits' length, and what goes before and after it.
const ERROR_LEN_MAX: u64 = 6 + 65_535 + 8;
/// Longest payload that tells the status of one context: a million runs, as nbdkit sends at most,
/// each of 16 bytes at most.
const STATUS_LEN_MAX: u64 = 8 + (16 << 20);
/// Most errors in the reply to one request. Any other chunk tells something new, so that there is
/// an end to them.
const ERRORS_MAX: u32 = 16;
/// Bytes that a chunk of a read has at least, on average, before the pieces of a reply are too many
/// to be honest: a sector.
const PIECE_LEN_MIN: u64 = 512;

/// What replies are checked against.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How replies look.
    pub replies: Replies,
    /// Ids of the contexts that block status tells, in the order of answers.
    pub contexts: Vec<u32>,
    /// The disk's size in bytes.
    pub size: u64,
    /// Lengths of status runs are multiples of this, but for the one at the disk's end.
    pub block_min: u64,
}

/// A request, and what has come of it so far.
#[derive(Debug)]
pub struct Exchange {
    /// Disk offset of the request.
    offset: u64,
    /// Its length.
    len: u64,
    kind: Kind,
    failure: Option<ServerFailure>,
    errors: u32,
}

#[derive(Debug)]
enum Kind {
    Read {
        bytes: Vec<u8>,
        filled: Filled,
    },
    Status {
        answers: Vec<Option<Vec<StatusRun>>>,
    },
}

/// What a request got.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The bytes of a read, all of them.
    Bytes(Vec<u8>),
    /// The runs of each context, in the order of [`Rules::contexts`]; they begin at the request's
    /// offset, and the last one may reach past its end.
    Status(Vec<Vec<StatusRun>>),
}

impl Exchange {
    /// Returns a read that nothing has come of yet, of as many bytes as there is room for. What
    /// `bytes` hold does not matter: an answer has all of them written.
    pub fn read(offset: u64, bytes: Vec<u8>) -> Self {
        let len = u64::try_from(bytes.len()).expect("memory is smaller than 2^64 bytes");
        let filled = Filled::default();
        Self {
            offset,
            len,
            kind: Kind::Read { bytes, filled },
            failure: None,
            errors: 0,
        }
    }

    /// Returns a request for the status of a range that nothing has come of yet.
    pub fn status(offset: u64, len: u64, contexts: usize) -> Self {
        let answers = vec![None; contexts];
        Self {
            offset,
            len,
            kind: Kind::Status { answers },
            failure: None,
            errors: 0,
        }
    }

    /// Returns what was asked, as a verb.
    fn command(&self) -> &'static str {
        match self.kind {
            Kind::Read { .. } => "read",
            Kind::Status { .. } => "tell the block status",
        }
    }

    /// Returns what the request got, now that the server says that this is all.
    ///
    /// # Errors
    ///
    /// [`ClientError::Failed`] where the server says so; all else is a broken rule.
    pub fn finish(self) -> Result<Answer, ClientError> {
        let (command, offset) = (self.command(), self.offset);
        if let Some(failure) = self.failure {
            return Err(ClientError::Failed {
                command,
                offset,
                failure,
            });
        }
        match self.kind {
            Kind::Read { bytes, filled } if filled.len == self.len => Ok(Answer::Bytes(bytes)),
            Kind::Read { .. } => Err(ClientError::protocol("a read that lacks bytes")),
            Kind::Status { answers } => answers
                .into_iter()
                .collect::<Option<_>>()
                .map(Answer::Status)
                .ok_or(ClientError::protocol("a context without an answer")),
        }
    }
}

/// Reads the header of the next message.
pub fn read_header(input: &mut impl Read, rules: &Rules) -> Result<ReplyHeader, ClientError> {
    let mut bytes = [0; 32];
    let (magic, _) = bytes.split_at_mut(4);
    input.read_exact(magic)?;
    let magic = <[u8; 4]>::try_from(&*magic).expect("split at 4");
    let len = ReplyHeader::len_by_magic(magic)?;
    let header = bytes.get_mut(..len).expect("headers have 32 bytes at most");
    let (_, rest) = header.split_at_mut(4);
    input.read_exact(rest)?;
    let header = ReplyHeader::decode(header)?;
    let belongs = match header {
        ReplyHeader::Simple { .. } => rules.replies != Replies::Extended,
        ReplyHeader::Structured { .. } => rules.replies == Replies::Structured,
        ReplyHeader::Extended { .. } => rules.replies == Replies::Extended,
    };
    match belongs {
        true => Ok(header),
        false => Err(ClientError::protocol(
            "a reply of a kind that was not agreed on",
        )),
    }
}

/// Returns the cookie of a message.
pub fn cookie(header: &ReplyHeader) -> u64 {
    match *header {
        ReplyHeader::Simple { cookie, .. }
        | ReplyHeader::Structured { cookie, .. }
        | ReplyHeader::Extended { cookie, .. } => cookie,
    }
}

/// Takes the rest of a message for the request that it answers; returns whether it was the last.
///
/// # Errors
///
/// What ends the connection: it failed, or the server broke a rule.
pub fn receive(
    input: &mut impl Read,
    rules: &Rules,
    header: &ReplyHeader,
    exchange: &mut Exchange,
) -> Result<bool, ClientError> {
    let (flags, kind, len) = match *header {
        ReplyHeader::Simple { error, .. } => {
            simple(input, rules, error, exchange)?;
            return Ok(true);
        }
        ReplyHeader::Structured {
            flags, kind, len, ..
        } => (flags, kind, u64::from(len)),
        ReplyHeader::Extended {
            flags,
            kind,
            len,
            offset,
            ..
        } => {
            if offset != exchange.offset {
                return Err(ClientError::protocol(
                    "a reply with another request's offset",
                ));
            }
            (flags, kind, len)
        }
    };
    let is_last = flags & reply_flag::DONE != 0;
    chunk(input, rules, kind, len, exchange)?;
    if kind == reply_type::NONE && !is_last {
        return Err(ClientError::protocol("an empty chunk that is not the last"));
    }
    Ok(is_last)
}

fn simple(
    input: &mut impl Read,
    rules: &Rules,
    error: u32,
    exchange: &mut Exchange,
) -> Result<(), ClientError> {
    if error != 0 {
        exchange.failure.get_or_insert(ServerFailure {
            error,
            message: String::new(),
        });
        return Ok(());
    }
    match &mut exchange.kind {
        Kind::Read { bytes, filled } if rules.replies == Replies::Simple => {
            filled.insert(0..exchange.len, exchange.len)?;
            Ok(input.read_exact(bytes)?)
        }
        _ => Err(ClientError::protocol(
            "a simple reply where chunks were agreed on",
        )),
    }
}

fn chunk(
    input: &mut impl Read,
    rules: &Rules,
    kind: u16,
    len: u64,
    exchange: &mut Exchange,
) -> Result<(), ClientError> {
    if kind & reply_type::ERROR_BIT != 0 {
        let payload = payload(input, len, ERROR_LEN_MAX)?;
        let ErrorChunk { error, message, .. } = ErrorChunk::decode(kind, &payload)?;
        if error == 0 {
            return Err(ClientError::protocol("an error that is none"));
        }
        exchange
            .failure
            .get_or_insert(ServerFailure { error, message });
        exchange.errors = exchange.errors.saturating_add(1);
        return match exchange.errors > ERRORS_MAX {
            true => Err(ClientError::protocol("a reply of too many errors")),
            false => Ok(()),
        };
    }
    let is_extended = rules.replies == Replies::Extended;
    match (kind, &mut exchange.kind) {
        (reply_type::NONE, _) if len == 0 => Ok(()),
        (reply_type::OFFSET_DATA, Kind::Read { bytes, filled }) => {
            let data_len = len.checked_sub(8).filter(|len| *len > 0);
            let data_len = data_len.ok_or(ClientError::protocol("a chunk without data"))?;
            let mut front = [0; 8];
            input.read_exact(&mut front)?;
            let offset = wire::decode_offset_data(&front)?;
            let at = within(exchange.offset, exchange.len, offset, data_len)?;
            filled.insert(at.clone(), exchange.len)?;
            let at = place(at.start)..place(at.end);
            let bytes = bytes.get_mut(at).expect("within the request");
            Ok(input.read_exact(bytes)?)
        }
        (reply_type::OFFSET_HOLE, Kind::Read { bytes, filled }) => {
            let payload = payload(input, len, 12)?;
            let (offset, hole_len) = wire::decode_offset_hole(&payload)?;
            if hole_len == 0 {
                return Err(ClientError::protocol("a hole without length"));
            }
            let at = within(exchange.offset, exchange.len, offset, hole_len.into())?;
            filled.insert(at.clone(), exchange.len)?;
            let bytes = bytes.get_mut(place(at.start)..place(at.end));
            bytes.expect("within the request").fill(0);
            Ok(())
        }
        (reply_type::BLOCK_STATUS, Kind::Status { answers }) if !is_extended => {
            let range = exchange.offset..exchange.offset.saturating_add(exchange.len);
            status(&payload(input, len, STATUS_LEN_MAX)?, rules, range, answers)
        }
        (reply_type::BLOCK_STATUS_EXT, Kind::Status { answers }) if is_extended => {
            let range = exchange.offset..exchange.offset.saturating_add(exchange.len);
            status(&payload(input, len, STATUS_LEN_MAX)?, rules, range, answers)
        }
        _ => Err(ClientError::protocol(
            "a chunk of a type that does not belong",
        )),
    }
}

fn payload(input: &mut impl Read, len: u64, limit: u64) -> Result<Vec<u8>, ClientError> {
    if len > limit {
        return Err(ClientError::protocol("a chunk that is too long"));
    }
    let mut bytes = vec![0; place(len)];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Returns a length that has been bounded as one of memory.
fn place(len: u64) -> usize {
    usize::try_from(len).expect("bounded by the caller")
}

/// Returns where a piece of the disk lies in a request.
fn within(start: u64, len: u64, offset: u64, piece_len: u64) -> Result<Range<u64>, ClientError> {
    offset
        .checked_sub(start)
        .and_then(|at| Some(at..at.checked_add(piece_len)?))
        .filter(|at| at.end <= len)
        .ok_or(ClientError::protocol("bytes beyond what was asked for"))
}

/// Takes the status of one context.
fn status(
    payload: &[u8],
    rules: &Rules,
    range: Range<u64>,
    answers: &mut [Option<Vec<StatusRun>>],
) -> Result<(), ClientError> {
    let is_extended = rules.replies == Replies::Extended;
    let BlockStatus { context, runs } = BlockStatus::decode(payload, is_extended)?;
    let place = rules.contexts.iter().position(|id| *id == context);
    let answer = place.and_then(|place| answers.get_mut(place));
    let answer = answer.ok_or(ClientError::protocol("the status of an unknown context"))?;
    if answer.is_some() {
        return Err(ClientError::protocol("a context that is answered twice"));
    }
    check_runs(&runs, rules, range)?;
    *answer = Some(runs);
    Ok(())
}

/// Checks the runs of one context: there are some, none is empty or unaligned, each begins within
/// the request, and the last ends within the disk.
fn check_runs(runs: &[StatusRun], rules: &Rules, range: Range<u64>) -> Result<(), ClientError> {
    let mut at = range.start;
    for run in runs {
        if at >= range.end {
            return Err(ClientError::protocol("status of what was not asked for"));
        }
        if run.len == 0 {
            return Err(ClientError::protocol("a status run without length"));
        }
        let end = at.checked_add(run.len).filter(|end| *end <= rules.size);
        let end = end.ok_or(ClientError::protocol("status beyond the disk's end"))?;
        if end != rules.size && end.checked_rem(rules.block_min) != Some(0) {
            return Err(ClientError::protocol("a status run that is not aligned"));
        }
        at = end;
    }
    match runs.is_empty() {
        true => Err(ClientError::protocol("block status without a run")),
        false => Ok(()),
    }
}

/// Which bytes of a request have come: ranges that do not touch, by their starts.
#[derive(Debug, Default)]
struct Filled {
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl Filled {
    /// Takes a range in that lies within a request of `request_len` bytes.
    fn insert(&mut self, range: Range<u64>, request_len: u64) -> Result<(), ClientError> {
        let before = self.ranges.range(..range.end).next_back();
        let before = before.map(|(start, end)| (*start, *end));
        let mut start = range.start;
        if let Some((before, end)) = before {
            if end > range.start {
                return Err(ClientError::protocol("bytes that come twice"));
            }
            if end == range.start {
                start = before;
            }
        }
        let end = self.ranges.remove(&range.end).unwrap_or(range.end);
        self.ranges.insert(start, end);
        self.len = self
            .len
            .saturating_add(range.end.saturating_sub(range.start));
        let pieces = u64::try_from(self.ranges.len()).unwrap_or(u64::MAX);
        match pieces > 16_u64.saturating_add(request_len / PIECE_LEN_MIN) {
            true => Err(ClientError::protocol("a reply in too many pieces")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
