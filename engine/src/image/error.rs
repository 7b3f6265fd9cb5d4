//! Why an image could not be read.

use std::ops::Range;
use std::sync::Arc;

use crate::recipe::RecipeError;
use crate::repository::RepositoryError;

/// An image failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The disk's recipe cannot be read.
    #[error("cannot read the recipe of disk {target}")]
    Recipe {
        /// The disk.
        target: String,
        /// The recipe's reason.
        source: RecipeError,
    },
    /// Bytes of the disk cannot be read back whole.
    #[error("cannot read bytes {start}..{end} of disk {target}", start = range.start,
        end = range.end)]
    Bytes {
        /// The disk.
        target: String,
        /// The disk bytes that are not to be had, of those asked for.
        range: Range<u64>,
        /// The repository's reason.
        source: Arc<RepositoryError>,
    },
}

impl ImageError {
    /// Returns whether stored bytes are damaged or missing, as against out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Recipe { source, .. } => source.is_damage(),
            Self::Bytes { source, .. } => source.is_damage(),
        }
    }
}
