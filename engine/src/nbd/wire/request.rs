//! Requests of the transmission phase.

use super::cursor::Cursor;
use super::{EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, WireError};

/// Length of a compact request header in bytes.
pub const COMPACT_REQUEST_LEN: usize = 28;
/// Length of an extended request header in bytes.
pub const EXTENDED_REQUEST_LEN: usize = 32;

/// The header of one request. A write's payload follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// The command.
    pub command: u16,
    /// What the reply repeats.
    pub cookie: u64,
    /// Disk offset in bytes.
    pub offset: u64,
    /// Length in bytes: of the effect, or of the payload where the flags say so.
    pub len: u64,
}

impl Request {
    /// Returns the length of a header in bytes.
    pub fn header_len(extended: bool) -> usize {
        match extended {
            true => EXTENDED_REQUEST_LEN,
            false => COMPACT_REQUEST_LEN,
        }
    }

    /// Appends the header.
    ///
    /// # Panics
    ///
    /// Panics if a compact header is to hold a length of more than 32 bits.
    pub fn encode(&self, extended: bool, out: &mut Vec<u8>) {
        let magic = match extended {
            true => EXTENDED_REQUEST_MAGIC,
            false => REQUEST_MAGIC,
        };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.command.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.len.to_be_bytes());
        } else {
            let len = u32::try_from(self.len).expect("callers split what is longer");
            out.extend_from_slice(&len.to_be_bytes());
        }
    }

    /// Decodes a header of exactly [`Request::header_len`] bytes.
    pub fn decode(bytes: &[u8], extended: bool) -> Result<Self, WireError> {
        let mut fields = Cursor::new(bytes);
        let magic = fields.u32()?;
        let expected = match extended {
            true => EXTENDED_REQUEST_MAGIC,
            false => REQUEST_MAGIC,
        };
        if magic != expected {
            let found = magic.into();
            return Err(WireError::Magic { found });
        }
        let request = Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            len: match extended {
                true => fields.u64()?,
                false => fields.u32()?.into(),
            },
        };
        fields.end()?;
        Ok(request)
    }
}
