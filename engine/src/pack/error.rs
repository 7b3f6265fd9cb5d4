//! Why a pack could not be written or read.

use crate::format::FormatError;
use crate::id::{ContentId, PackId};
use crate::index::IndexError;
use crate::storage::StorageError;

/// A pack failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A pack's bytes are not what its name or footer says.
    #[error("pack {pack} {}", state(.source))]
    Damaged {
        /// The pack.
        pack: PackId,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A frame of a pack cannot be decoded.
    #[error("frame {frame} of pack {pack} {}", state(.source))]
    DamagedFrame {
        /// The pack.
        pack: PackId,
        /// The frame's ordinal.
        frame: u32,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A frame decodes, but content in it does not have the hash that names it.
    #[error("content {content} in frame {frame} of pack {pack} does not match its id")]
    DamagedContent {
        /// The pack.
        pack: PackId,
        /// The frame's ordinal.
        frame: u32,
        /// The content.
        content: ContentId,
    },
    /// What was published could not be added to the index's additions.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A thread that writes packs ended early; the first failure is reported elsewhere.
    #[error("writing packs was stopped by an earlier failure")]
    Stopped,
}

fn is_newer(source: &FormatError) -> bool {
    matches!(
        source,
        FormatError::UnsupportedVersion { .. } | FormatError::UnsupportedFeature { .. }
    )
}

fn state(source: &FormatError) -> &'static str {
    match is_newer(source) {
        true => "is not supported",
        false => "is damaged",
    }
}

impl PackError {
    /// Returns whether the bytes say that a newer Cairn wrote them. A flipped bit may say so too.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Damaged { source, .. } | Self::DamagedFrame { source, .. } => is_newer(source),
            _ => false,
        }
    }

    /// Returns whether stored bytes are damaged, as against out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { source, .. } | Self::DamagedFrame { source, .. } => !is_newer(source),
            Self::DamagedContent { .. } => true,
            Self::Storage(StorageError::ShortRead { .. } | StorageError::TooLong { .. }) => true,
            _ => false,
        }
    }

    /// Returns whether a pack cannot give its bytes back: damaged, gone, or in a bad sector.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_loss(),
            error => error.is_damage(),
        }
    }

    /// Returns whether the pack is not there.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Storage(StorageError::NotFound(_)))
    }

    /// Returns whether this process lacks something, which says nothing about the pack.
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_shortage())
    }
}
