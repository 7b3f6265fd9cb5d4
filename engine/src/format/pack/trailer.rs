//! The end of a pack.

use std::ops::Range;

use super::PackHeader;
use crate::format::FormatError;
use crate::format::cursor::{Cursor, at_most, in_range};
use crate::limits::{FOOTER_LEN_MAX, PACK_LEN_MAX};

const MAGIC: &[u8; 8] = b"CAIRNEND";
const HASH_CONTEXT: &str = "cairn 1 pack footer";

/// The end of a pack: where its footer begins, and the footer's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Length of the stored footer, which ends where the trailer begins.
    pub footer_len: u32,
    /// Hash over header, stored footer and its length.
    pub hash: [u8; 32],
}

impl Trailer {
    /// Length in bytes.
    pub const LEN: usize = 48;

    /// Makes the trailer of a pack from its encoded header and its stored footer.
    ///
    /// # Panics
    ///
    /// Panics on a footer longer than [`FOOTER_LEN_MAX`], which no `Footer::encode` returns.
    pub fn new(header: &[u8; PackHeader::LEN], stored_footer: &[u8]) -> Self {
        let footer_len = u32::try_from(stored_footer.len()).ok();
        let footer_len = footer_len
            .filter(|len| *len <= FOOTER_LEN_MAX)
            .expect("a footer within the format's limits is shorter than the longest footer");
        let hash = footer_hash(header, stored_footer, footer_len);
        Self { footer_len, hash }
    }

    /// Encodes the trailer.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend_from_slice(&self.footer_len.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.hash);
        bytes.extend_from_slice(MAGIC);
        bytes
    }

    /// Decodes a trailer from exactly [`Trailer::LEN`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new("pack trailer", bytes);
        let footer_len = cursor.u32()?;
        cursor.reserved::<4>()?;
        let hash = cursor.array()?;
        cursor.magic(MAGIC)?;
        cursor.finish()?;
        in_range(
            "length of a footer",
            footer_len.into(),
            1,
            FOOTER_LEN_MAX.into(),
        )?;
        Ok(Self { footer_len, hash })
    }

    /// Returns where the stored footer lies in a pack of `pack_len` bytes. Frames lie between
    /// [`PackHeader::LEN`] and its start.
    pub fn footer_range(&self, pack_len: u64) -> Result<Range<u64>, FormatError> {
        at_most("length of a pack", pack_len, PACK_LEN_MAX)?;
        let end = pack_len.checked_sub(Self::LEN as u64);
        let start = end.and_then(|end| end.checked_sub(self.footer_len.into()));
        match (start, end) {
            (Some(start), Some(end)) if start >= PackHeader::LEN as u64 => Ok(start..end),
            _ => Err(FormatError::Truncated {
                what: "pack",
                needed: u64::from(self.footer_len)
                    .saturating_add((PackHeader::LEN as u64).saturating_add(Self::LEN as u64)),
                had: pack_len,
            }),
        }
    }

    /// Checks the header and stored footer of a pack. Needs no key.
    pub fn check(
        &self,
        header: &[u8; PackHeader::LEN],
        stored_footer: &[u8],
    ) -> Result<(), FormatError> {
        if footer_hash(header, stored_footer, self.footer_len) == self.hash {
            Ok(())
        } else {
            Err(FormatError::ChecksumMismatch {
                what: "pack footer",
            })
        }
    }
}

fn footer_hash(header: &[u8; PackHeader::LEN], stored_footer: &[u8], footer_len: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
    hasher.update(header);
    hasher.update(stored_footer);
    hasher.update(&footer_len.to_le_bytes());
    hasher.finalize().into()
}
