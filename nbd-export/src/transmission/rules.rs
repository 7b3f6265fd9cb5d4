//! Which requests are answered, and which error the others get.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use cairn_engine::nbd::wire::{PAYLOAD_LEN_DEFAULT, Request, cmd, cmd_flag, errno};

use crate::handshake::{Agreement, Mode};

/// Longest read and write that is served. Twice what clients are told: some ask for no block sizes,
/// and testers send more than they were told.
const SERVED_MAX: u64 = 2 * PAYLOAD_LEN_DEFAULT as u64;
/// Payload that is skipped to refuse a request in good order; a client that announces more is cut
/// off.
pub(super) const SKIPPED_MAX: u64 = 2 * PAYLOAD_LEN_DEFAULT as u64;

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: u32,
    pub(super) text: &'static str,
}

const fn refused(errno: u32, text: &'static str) -> Refusal {
    Refusal { errno, text }
}

const FLAGS: Refusal = refused(errno::EINVAL, "a flag that this command does not have");
const READ_ONLY: Refusal = refused(errno::EPERM, "the export is read-only");
const TOO_LONG: Refusal = refused(errno::EINVAL, "more than 64 MiB at once");
const TOO_LONG_UNFRAGMENTED: Refusal = refused(errno::EOVERFLOW, "too long for a single chunk");
const BEYOND: Refusal = refused(errno::EINVAL, "beyond the end of the disk");
const NO_SPACE: Refusal = refused(errno::ENOSPC, "beyond the end of the disk");
const NO_CONTEXT: Refusal = refused(errno::EINVAL, "no metadata context was agreed on");
const EMPTY: Refusal = refused(errno::EINVAL, "the status of no bytes");
const PAYLOAD: Refusal = refused(errno::EINVAL, "the payload makes no sense");
const UNKNOWN: Refusal = refused(errno::EINVAL, "unknown command");

/// Returns how many bytes follow the header of a request.
pub(super) fn payload_len(request: &Request, mode: Mode) -> u64 {
    let says_so = mode == Mode::Extended && request.flags & cmd_flag::PAYLOAD_LEN != 0;
    // A write has its payload in any case: clients that forget the flag are known.
    match request.command == cmd::WRITE || says_so {
        true => request.len,
        false => 0,
    }
}

/// Checks a request as far as its header tells. `request.len` is that of the effect, also where
/// a payload said it.
pub(super) fn check(request: &Request, agreement: &Agreement) -> Result<(), Refusal> {
    let flags = allowed_flags(request.command, agreement)?;
    if request.flags & !flags != 0 {
        return Err(FLAGS);
    }
    let writes = matches!(request.command, cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES);
    if writes && !agreement.export.is_writable() {
        return Err(READ_ONLY);
    }
    if matches!(request.command, cmd::FLUSH | cmd::DISC) {
        return Ok(());
    }
    let carries_data = matches!(request.command, cmd::READ | cmd::WRITE);
    if carries_data && request.len > SERVED_MAX {
        return Err(match request.flags & cmd_flag::DF {
            0 => TOO_LONG,
            _ => TOO_LONG_UNFRAGMENTED,
        });
    }
    let end = request.offset.checked_add(request.len);
    if end.is_none_or(|end| end > agreement.export.disk.size()) {
        return Err(match request.command {
            cmd::WRITE | cmd::WRITE_ZEROES => NO_SPACE,
            _ => BEYOND,
        });
    }
    if request.command == cmd::BLOCK_STATUS {
        if agreement.contexts.is_empty() {
            return Err(NO_CONTEXT);
        }
        if request.len == 0 {
            return Err(EMPTY);
        }
    }
    Ok(())
}

/// Returns the flags that a command may have.
fn allowed_flags(command: u16, agreement: &Agreement) -> Result<u16, Refusal> {
    // FUA may come with any command.
    Ok(cmd_flag::FUA
        | match command {
            cmd::READ if agreement.mode >= Mode::Structured => cmd_flag::DF,
            cmd::WRITE if agreement.mode == Mode::Extended => cmd_flag::PAYLOAD_LEN,
            cmd::WRITE_ZEROES => cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO,
            cmd::BLOCK_STATUS if agreement.takes_status_payload() => {
                cmd_flag::REQ_ONE | cmd_flag::PAYLOAD_LEN
            }
            cmd::BLOCK_STATUS => cmd_flag::REQ_ONE,
            cmd::READ | cmd::WRITE | cmd::DISC | cmd::FLUSH | cmd::TRIM | cmd::CACHE => 0,
            _ => return Err(UNKNOWN),
        })
}

/// A payload of `NBD_CMD_BLOCK_STATUS`: how far to look, and at which contexts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StatusPayload {
    pub(super) len: u64,
    pub(super) contexts: Vec<u32>,
}

impl StatusPayload {
    /// Returns the length of the longest payload that makes sense.
    pub(super) fn len_max(agreement: &Agreement) -> usize {
        agreement.contexts.len().saturating_mul(4).saturating_add(8)
    }

    /// Decodes a payload: contexts that were agreed on, one at least, each once.
    pub(super) fn decode(bytes: &[u8], agreement: &Agreement) -> Result<Self, Refusal> {
        let (len, ids) = bytes.split_first_chunk::<8>().ok_or(PAYLOAD)?;
        let (ids, rest) = ids.as_chunks::<4>();
        let contexts: Vec<u32> = ids.iter().map(|id| u32::from_be_bytes(*id)).collect();
        let is_known =
            |id: &u32| usize::try_from(*id).is_ok_and(|id| id < agreement.contexts.len());
        let mut sorted = contexts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let is_sound = rest.is_empty() && !ids.is_empty() && sorted.len() == contexts.len();
        if !is_sound || !contexts.iter().all(is_known) {
            return Err(PAYLOAD);
        }
        Ok(Self {
            len: u64::from_be_bytes(*len),
            contexts,
        })
    }

    /// What a payload that is too long to be one gets.
    pub(super) const TOO_LONG: Refusal = PAYLOAD;
}
