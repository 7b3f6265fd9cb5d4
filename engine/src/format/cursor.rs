//! Reads little-endian fields from untrusted bytes: every read is checked, none panics.

use super::FormatError;

/// A position in bytes that are being decoded. `what` names them in errors.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// Takes the next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(FormatError::Truncated {
                what: self.what,
                needed: len as u64,
                had: self.rest.len() as u64,
            });
        };
        self.rest = rest;
        Ok(taken)
    }

    /// Takes a column of `count` fields of `N` bytes each.
    pub(crate) fn column<const N: usize>(
        &mut self,
        count: usize,
    ) -> Result<&'a [[u8; N]], FormatError> {
        let len = count.checked_mul(N).ok_or(FormatError::OutOfRange {
            field: "length of a column",
            value: u64::MAX,
            limit: self.rest.len() as u64,
        })?;
        // No remainder: `len` is a multiple of `N`.
        Ok(self.take(len)?.as_chunks().0)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes `N` bytes that format 1 keeps at zero.
    pub(crate) fn reserved<const N: usize>(&mut self) -> Result<(), FormatError> {
        if self.array()? == [0; N] {
            Ok(())
        } else {
            Err(FormatError::Malformed {
                rule: "reserved bytes must be zero",
            })
        }
    }

    /// Takes the magic bytes of a kind of file.
    pub(crate) fn magic(&mut self, magic: &[u8; 8]) -> Result<(), FormatError> {
        if self.array()? == *magic {
            Ok(())
        } else {
            Err(FormatError::BadMagic {
                expected: self.what,
            })
        }
    }

    /// Ends the reading: nothing may be left.
    pub(crate) fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(FormatError::Malformed {
                rule: "nothing may follow the last field",
            })
        }
    }
}

/// Refuses a value above its limit.
pub(crate) fn at_most(field: &'static str, value: u64, limit: u64) -> Result<(), FormatError> {
    in_range(field, value, 0, limit)
}

/// Refuses a value outside `least..=most`; the error names the bound that it breaks.
pub(crate) fn in_range(
    field: &'static str,
    value: u64,
    least: u64,
    most: u64,
) -> Result<(), FormatError> {
    let limit = if value < least { least } else { most };
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(FormatError::OutOfRange {
            field,
            value,
            limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_little_endian() {
        let mut cursor = Cursor::new("test", &[1, 2, 3, 4, 5, 6, 7, 0, 0]);
        assert_eq!(cursor.u8(), Ok(1));
        assert_eq!(cursor.u16(), Ok(0x0302));
        assert_eq!(cursor.u32(), Ok(0x0706_0504));
        assert_eq!(cursor.reserved::<2>(), Ok(()));
        assert_eq!(cursor.finish(), Ok(()));
    }

    #[test]
    fn short_and_long_bytes_are_refused() {
        let mut cursor = Cursor::new("test", &[1, 2]);
        let short = FormatError::Truncated {
            what: "test",
            needed: 4,
            had: 2,
        };
        assert_eq!(cursor.u32(), Err(short));
        assert!(cursor.finish().is_err());
        assert!(Cursor::new("test", &[]).column::<36>(usize::MAX).is_err());
    }
}
