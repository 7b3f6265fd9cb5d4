//! Options and the replies to them, bounded in number and length.

use std::io::{Read, Write};

use super::error::{ClientError, OptionError};
use crate::nbd::wire::{OptionHeader, OptionReplyHeader, STRING_LEN_MAX, rep};

/// Longest data of a reply: two strings and their lengths.
const REPLY_LEN_MAX: usize = 2 * STRING_LEN_MAX + 16;
/// Most replies to one option. A server with more exports or contexts than this has the rest of
/// them overlooked where they are listed, which is for people only.
const REPLIES_MAX: usize = 1024;

/// How an option ended.
pub(super) enum Ended {
    /// With `NBD_REP_ACK`.
    Done,
    /// With an error.
    Refused(OptionError),
}

impl Ended {
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}

/// Sends an option and takes the replies; `take` gets the data of those of type `kind`.
pub(super) fn exchange<S: Read + Write>(
    stream: &mut S,
    option: u32,
    data: &[u8],
    kind: u32,
    mut take: impl FnMut(&[u8]) -> Result<(), ClientError>,
) -> Result<Ended, ClientError> {
    send(stream, option, data)?;
    for _ in 0..REPLIES_MAX {
        let (header, data) = receive(stream)?;
        if header.option != option {
            return Err(ClientError::protocol("a reply to another option"));
        }
        match header.kind {
            rep::ACK if data.is_empty() => return Ok(Ended::Done),
            rep::ACK => return Err(ClientError::protocol("NBD_REP_ACK with data")),
            rep::ERR_TLS_REQD => return Err(ClientError::TlsRequired),
            error if error & rep::ERROR != 0 => {
                let message = String::from_utf8_lossy(&data).into_owned();
                return Ok(Ended::Refused(OptionError {
                    kind: error,
                    message,
                }));
            }
            found if found == kind => take(&data)?,
            _ => {
                return Err(ClientError::protocol(
                    "a reply of a type that does not belong",
                ));
            }
        }
    }
    Err(ClientError::protocol(
        "more than 1024 replies to one option",
    ))
}

/// Sends an option.
pub(super) fn send(stream: &mut impl Write, option: u32, data: &[u8]) -> Result<(), ClientError> {
    let len = u32::try_from(data.len()).expect("names and queries are bounded");
    let mut message = Vec::with_capacity(data.len().saturating_add(OptionHeader::LEN));
    OptionHeader { option, len }.encode(&mut message);
    message.extend_from_slice(data);
    stream.write_all(&message)?;
    Ok(stream.flush()?)
}

fn receive(stream: &mut impl Read) -> Result<(OptionReplyHeader, Vec<u8>), ClientError> {
    let mut header = [0; OptionReplyHeader::LEN];
    stream.read_exact(&mut header)?;
    let header = OptionReplyHeader::decode(&header)?;
    let len = usize::try_from(header.len).unwrap_or(usize::MAX);
    if len > REPLY_LEN_MAX {
        return Err(ClientError::protocol(
            "a reply to an option that is too long",
        ));
    }
    let mut data = vec![0; len];
    stream.read_exact(&mut data)?;
    Ok((header, data))
}
