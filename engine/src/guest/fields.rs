//! Fields of structures that a guest wrote, read with every bound checked: none can panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

use super::tree::{FileTime, GuestError};

/// Returns the error for a structure that makes no sense.
pub(crate) fn damaged(what: &'static str, why: &'static str) -> GuestError {
    GuestError::Damaged {
        what,
        source: why.into(),
    }
}

/// Returns the error for something that cannot be read here.
pub(crate) fn unsupported(what: &'static str, feature: impl Into<String>) -> GuestError {
    GuestError::Unsupported {
        what,
        feature: feature.into(),
    }
}

/// Returns the bytes of a field.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Returns a little-endian field of two bytes.
pub(crate) fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

/// Returns a little-endian field of four bytes.
pub(crate) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// Returns a little-endian field of eight bytes.
pub(crate) fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// Returns a big-endian field of two bytes.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// Returns a big-endian field of four bytes.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

/// Returns a big-endian field of eight bytes.
pub(crate) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// Returns two halves of four bytes as one number.
pub(crate) fn join(high: u32, low: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}

/// Returns a name that is padded with zeros or spaces as text, if there is one.
pub(crate) fn padded_text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len()))?;
    let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The bytes of a structure. What lies beyond their end is damage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

macro_rules! field {
    ($($name:ident, $type:ty;)*) => {$(
        #[doc = concat!("Returns the `", stringify!($type), "` at an offset.")]
        pub(crate) fn $name(&self, at: usize) -> Result<$type, GuestError> {
            self.need($name(self.bytes, at))
        }
    )*};
}

impl<'a> Fields<'a> {
    /// Returns a view of bytes that belong to `what`.
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes }
    }

    /// Returns `len` bytes at an offset.
    pub(crate) fn get(&self, at: usize, len: usize) -> Result<&'a [u8], GuestError> {
        let end = at.checked_add(len);
        self.need(end.and_then(|end| self.bytes.get(at..end)))
    }

    /// Returns the view from an offset to the end.
    pub(crate) fn from(&self, at: usize) -> Result<Fields<'a>, GuestError> {
        let bytes = self.need(self.bytes.get(at..))?;
        Ok(Self::new(self.what, bytes))
    }

    /// Returns all bytes.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn need<T>(&self, field: Option<T>) -> Result<T, GuestError> {
        field.ok_or_else(|| damaged(self.what, "a structure is cut short"))
    }

    /// Returns the byte at an offset.
    pub(crate) fn u8(&self, at: usize) -> Result<u8, GuestError> {
        self.need(self.bytes.get(at).copied())
    }

    field! {
        be16, u16;
        be32, u32;
        be64, u64;
        le16, u16;
        le32, u32;
        le64, u64;
    }
}

/// Returns a time whose nanoseconds are in range, whatever the disk says.
pub(crate) fn time(seconds: i64, nanoseconds: u32) -> FileTime {
    FileTime {
        seconds,
        nanoseconds: nanoseconds.min(999_999_999),
    }
}

/// Fails unless `name` can be the name of a file.
pub(crate) fn check_name(what: &'static str, name: &[u8]) -> Result<(), GuestError> {
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(damaged(what, "a name in a folder is impossible"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_cut_off_are_missing() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(le16(&bytes, 6), Some(0x0807));
        assert_eq!(le16(&bytes, 7), None);
        assert_eq!(be32(&bytes, 0), Some(0x0102_0304));
        assert_eq!(be32(&bytes, usize::MAX), None);
        assert_eq!(le64(&bytes, 0), Some(0x0807_0605_0403_0201));
        assert_eq!(be64(&bytes, 1), None);
        assert_eq!(join(1, 2), 0x1_0000_0002);
    }

    #[test]
    fn padding_is_no_part_of_a_name() {
        assert_eq!(padded_text(b"boot\0\0x"), Some("boot".into()));
        assert_eq!(padded_text(b"EFI        "), Some("EFI".into()));
        assert_eq!(padded_text(b"    "), None);
        assert_eq!(padded_text(b""), None);
    }

    #[test]
    fn fields_beyond_the_end_are_damage() {
        let fields = Fields::new("test", &[1, 2, 3]);
        assert_eq!(fields.be16(1).expect("within"), 0x0203);
        assert_eq!(fields.le16(0).expect("within"), 0x0201);
        assert!(fields.be16(2).is_err());
        assert!(fields.le64(usize::MAX).is_err());
        assert!(fields.from(4).is_err());
    }
}
