//! Takes big-endian fields off the front of a message.

use super::{STRING_LEN_MAX, WireError};

/// What is left of a message.
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes a string that its length in 32 bits goes before.
    pub(super) fn string(&mut self) -> Result<String, WireError> {
        let len = usize::try_from(self.u32()?).map_err(|_| WireError::String)?;
        if len > STRING_LEN_MAX {
            return Err(WireError::String);
        }
        text(self.take(len)?)
    }

    /// Takes a string that is all that is left.
    pub(super) fn rest(&mut self) -> Result<String, WireError> {
        text(std::mem::take(&mut self.0))
    }

    /// Checks that nothing is left.
    pub(super) fn end(&self) -> Result<(), WireError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(WireError::Long),
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, WireError> {
    if bytes.len() > STRING_LEN_MAX {
        return Err(WireError::String);
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError::String)
}

/// Appends a string with its length in 32 bits before it.
///
/// # Panics
///
/// Panics if the string is longer than [`STRING_LEN_MAX`]: callers check what users give.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() <= STRING_LEN_MAX, "strings are bounded");
    let len = u32::try_from(text.len()).expect("bounded above");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
