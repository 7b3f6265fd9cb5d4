//! Packs: header, footer and trailer. Specified in `docs/format.md`, "Pack".
//!
//! A reader decodes the header, then the trailer, checks the stored footer against it, opens and
//! decodes the footer. From then on no place in the pack need be checked again.

mod footer;
mod trailer;

pub use footer::{Footer, FooterEntry, FrameEntry};
pub use trailer::Trailer;

use super::cursor::Cursor;
use super::file::take_version;
use super::{FILE_VERSION, FileKind, FormatError, Salt};
use crate::limits::{CHUNK_LEN_MAX, NODE_LEN_MAX};

const HEADER_MAGIC: &[u8; 8] = b"CAIRNPAK";
const FLAG_SEALED: u8 = 1;
/// The tag that sealing appends to a frame; see `docs/format.md`, "Sealing".
const TAG_LEN: u32 = 16;

/// What a pack holds. Apart, so that listing and collecting read little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackKind {
    /// Chunks of disk data.
    Data,
    /// Recipe nodes.
    Nodes,
}

impl PackKind {
    /// Returns the kind of file, as it enters keys.
    pub const fn file_kind(self) -> FileKind {
        match self {
            Self::Data => FileKind::DataPack,
            Self::Nodes => FileKind::NodePack,
        }
    }

    /// Returns the most plain bytes that one entry may have.
    const fn entry_len_max(self) -> u64 {
        match self {
            Self::Data => CHUNK_LEN_MAX as u64,
            Self::Nodes => NODE_LEN_MAX as u64,
        }
    }
}

/// How the bytes of a frame are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As they are.
    Plain,
    /// One zstd frame, with its content size and without a checksum.
    Zstd,
}

impl Codec {
    const fn code(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
        }
    }

    fn from_code(code: u8) -> Result<Self, FormatError> {
        match code {
            0 => Ok(Self::Plain),
            1 => Ok(Self::Zstd),
            2 => Err(FormatError::UnsupportedFeature {
                feature: "zstd against base chunks".to_owned(),
            }),
            other => Err(FormatError::UnsupportedFeature {
                feature: format!("frame codec {other}"),
            }),
        }
    }
}

/// The head of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackHeader {
    /// What the pack holds.
    pub kind: PackKind,
    /// Whether frames and footer are sealed.
    pub sealed: bool,
    /// The pack's salt: drawn anew for every attempt to write a pack, in plain repositories too.
    pub salt: Salt,
}

impl PackHeader {
    /// Length in bytes.
    pub const LEN: usize = 48;

    /// Encodes the header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (fixed, salt) = bytes.split_at_mut(16);
        fixed.copy_from_slice(&self.fixed_part());
        salt.copy_from_slice(self.salt.as_bytes());
        bytes
    }

    fn fixed_part(&self) -> [u8; 16] {
        let [v0, v1] = FILE_VERSION.to_le_bytes();
        let [m0, m1, m2, m3, m4, m5, m6, m7] = *HEADER_MAGIC;
        let flags = if self.sealed { FLAG_SEALED } else { 0 };
        let kind = self.kind.file_kind().code();
        [
            m0, m1, m2, m3, m4, m5, m6, m7, v0, v1, kind, flags, 0, 0, 0, 0,
        ]
    }

    /// Decodes a header from exactly [`PackHeader::LEN`] bytes.
    ///
    /// `sealed` says whether the repository is encrypted: that follows from `config`, never from
    /// the pack, so that nobody can slip in a pack that is not authenticated.
    pub fn decode(bytes: &[u8], sealed: bool) -> Result<Self, FormatError> {
        let what = "pack header";
        let mut cursor = Cursor::new(what, bytes);
        cursor.magic(HEADER_MAGIC)?;
        take_version(&mut cursor, what)?;
        let kind = match cursor.u8()? {
            1 => PackKind::Data,
            2 => PackKind::Nodes,
            other => {
                return Err(FormatError::UnsupportedFeature {
                    feature: format!("pack kind {other}"),
                });
            }
        };
        let flags = cursor.u8()?;
        if flags & !FLAG_SEALED != 0 {
            return Err(FormatError::UnsupportedFeature {
                feature: format!("pack flags {flags:#04x}"),
            });
        }
        if (flags & FLAG_SEALED != 0) != sealed {
            return Err(FormatError::Malformed {
                rule: "packs must be sealed in encrypted repositories and in no others",
            });
        }
        cursor.reserved::<4>()?;
        let salt = Salt::from_bytes(cursor.array()?);
        cursor.finish()?;
        Ok(Self { kind, sealed, salt })
    }

    /// Returns how many bytes sealing adds to each frame and to the footer.
    const fn overhead(&self) -> u32 {
        if self.sealed { TAG_LEN } else { 0 }
    }
}

#[cfg(test)]
mod tests;
