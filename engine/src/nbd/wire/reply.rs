//! Replies of the transmission phase.

use super::cursor::Cursor;
use super::{
    EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRING_LEN_MAX, STRUCTURED_REPLY_MAGIC, WireError,
    reply_type,
};

/// The header of one reply, or of one chunk of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A simple reply; the bytes read follow if there is no error.
    Simple {
        /// Zero, or why it failed.
        error: u32,
        /// The request's.
        cookie: u64,
    },
    /// A chunk of a structured reply.
    Structured {
        /// Flags of the chunk.
        flags: u16,
        /// Type of the chunk.
        kind: u16,
        /// The request's.
        cookie: u64,
        /// Length of the payload in bytes.
        len: u32,
    },
    /// A chunk of an extended reply.
    Extended {
        /// Flags of the chunk.
        flags: u16,
        /// Type of the chunk.
        kind: u16,
        /// The request's.
        cookie: u64,
        /// The request's offset.
        offset: u64,
        /// Length of the payload in bytes.
        len: u64,
    },
}

impl ReplyHeader {
    /// Returns the length of the header that begins with these four bytes.
    pub fn len_by_magic(magic: [u8; 4]) -> Result<usize, WireError> {
        match u32::from_be_bytes(magic) {
            SIMPLE_REPLY_MAGIC => Ok(16),
            STRUCTURED_REPLY_MAGIC => Ok(20),
            EXTENDED_REPLY_MAGIC => Ok(32),
            other => {
                let found = other.into();
                Err(WireError::Magic { found })
            }
        }
    }

    /// Appends the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Simple { error, cookie } => {
                out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
                out.extend_from_slice(&error.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
            }
            Self::Structured {
                flags,
                kind,
                cookie,
                len,
            } => {
                out.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
                out.extend_from_slice(&kind.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
            }
            Self::Extended {
                flags,
                kind,
                cookie,
                offset,
                len,
            } => {
                out.extend_from_slice(&EXTENDED_REPLY_MAGIC.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
                out.extend_from_slice(&kind.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
    }

    /// Decodes a whole header.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Cursor::new(bytes);
        let header = match fields.u32()? {
            SIMPLE_REPLY_MAGIC => Self::Simple {
                error: fields.u32()?,
                cookie: fields.u64()?,
            },
            STRUCTURED_REPLY_MAGIC => Self::Structured {
                flags: fields.u16()?,
                kind: fields.u16()?,
                cookie: fields.u64()?,
                len: fields.u32()?,
            },
            EXTENDED_REPLY_MAGIC => Self::Extended {
                flags: fields.u16()?,
                kind: fields.u16()?,
                cookie: fields.u64()?,
                offset: fields.u64()?,
                len: fields.u64()?,
            },
            other => {
                let found = other.into();
                return Err(WireError::Magic { found });
            }
        };
        fields.end()?;
        Ok(header)
    }
}

/// A run of bytes with one status in one context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRun {
    /// Length in bytes.
    pub len: u64,
    /// The context's flags.
    pub flags: u64,
}

/// The payload of a chunk that tells the status of one context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockStatus {
    /// The context, by the id that the handshake gave it.
    pub context: u32,
    /// Runs from the request's offset on.
    pub runs: Vec<StatusRun>,
}

impl BlockStatus {
    /// Appends the payload. Without extended headers, lengths and flags must fit 32 bits.
    ///
    /// # Panics
    ///
    /// Panics if they do not.
    pub fn encode(&self, extended: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.context.to_be_bytes());
        if extended {
            let count = u32::try_from(self.runs.len()).expect("answers are bounded");
            out.extend_from_slice(&count.to_be_bytes());
        }
        for run in &self.runs {
            if extended {
                out.extend_from_slice(&run.len.to_be_bytes());
                out.extend_from_slice(&run.flags.to_be_bytes());
            } else {
                let narrow = |word: u64| u32::try_from(word).expect("callers cut what is longer");
                out.extend_from_slice(&narrow(run.len).to_be_bytes());
                out.extend_from_slice(&narrow(run.flags).to_be_bytes());
            }
        }
    }

    /// Decodes a payload of type `BLOCK_STATUS_EXT` (`extended`) or `BLOCK_STATUS`. Memory is in
    /// proportion to the payload, whose length the caller has bounded.
    pub fn decode(bytes: &[u8], extended: bool) -> Result<Self, WireError> {
        let mut fields = Cursor::new(bytes);
        let context = fields.u32()?;
        let run_len = if extended { 16 } else { 8 };
        if extended {
            let count = usize::try_from(fields.u32()?).map_err(|_| WireError::Short)?;
            if count.checked_mul(run_len) != Some(fields.len()) {
                let rule = "the count of status runs is that of the payload";
                return Err(WireError::Rule { rule });
            }
        }
        let mut runs = Vec::with_capacity(fields.len().div_euclid(run_len));
        while !fields.is_empty() {
            runs.push(match extended {
                true => StatusRun {
                    len: fields.u64()?,
                    flags: fields.u64()?,
                },
                false => StatusRun {
                    len: fields.u32()?.into(),
                    flags: fields.u32()?.into(),
                },
            });
        }
        Ok(Self { context, runs })
    }
}

/// The payload of a chunk that tells an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorChunk {
    /// Why it failed.
    pub error: u32,
    /// What the server says to people; may be empty.
    pub message: String,
    /// Where it failed, if the chunk's type has that.
    pub offset: Option<u64>,
}

impl ErrorChunk {
    /// Returns the type of chunk that carries this.
    pub fn kind(&self) -> u16 {
        match self.offset {
            Some(_) => reply_type::ERROR_OFFSET,
            None => reply_type::ERROR,
        }
    }

    /// Appends the payload; a message that is too long loses its end.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let end = self.message.floor_char_boundary(STRING_LEN_MAX);
        let message = self.message.get(..end).unwrap_or_default();
        let len = u16::try_from(message.len()).expect("bounded above");
        out.extend_from_slice(&self.error.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(message.as_bytes());
        if let Some(offset) = self.offset {
            out.extend_from_slice(&offset.to_be_bytes());
        }
    }

    /// Decodes the payload of any chunk whose type is an error: of types that are not known, no
    /// more than the error and the message is used. A message that is not UTF-8 is made so.
    pub fn decode(kind: u16, bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Cursor::new(bytes);
        let error = fields.u32()?;
        let len = fields.u16()?;
        let message = fields.take(len.into())?;
        let offset = match kind {
            reply_type::ERROR_OFFSET => Some(fields.u64()?),
            _ => None,
        };
        if matches!(kind, reply_type::ERROR | reply_type::ERROR_OFFSET) {
            fields.end()?;
        }
        Ok(Self {
            error,
            message: String::from_utf8_lossy(message).into_owned(),
            offset,
        })
    }
}

/// Returns the offset at the front of an `OFFSET_DATA` payload, whose bytes follow.
pub fn decode_offset_data(front: &[u8]) -> Result<u64, WireError> {
    let mut fields = Cursor::new(front);
    let offset = fields.u64()?;
    fields.end()?;
    Ok(offset)
}

/// Returns offset and length of an `OFFSET_HOLE` payload.
pub fn decode_offset_hole(bytes: &[u8]) -> Result<(u64, u32), WireError> {
    let mut fields = Cursor::new(bytes);
    let hole = (fields.u64()?, fields.u32()?);
    fields.end()?;
    Ok(hole)
}
