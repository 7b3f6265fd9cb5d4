//! One disk of a backup: its source, and the recipe that it is computed against.

use std::ops::Range;

use super::BackupError;
use super::parent::Kept;
use crate::chunker::{ChunkRef, Geometry};
use crate::extent::{Extent, ExtentStatus, push_extent};
use crate::limits::REGION_LEN;
use crate::recipe::{Recipe, RecipeError, Shape};
use crate::repository::Contents;
use crate::source::{Source, SourceError};

/// What the threads of one disk share.
pub(super) struct Disk<'d> {
    pub(super) target: &'d str,
    pub(super) source: &'d dyn Source,
    pub(super) contents: &'d Contents,
    pub(super) shape: Shape,
    /// The recipe whose bytes the source's unchanged ranges are. Only an incremental has one.
    pub(super) parent: Option<Recipe<'d>>,
    /// What of the parent can be kept.
    pub(super) kept: Kept,
}

impl Disk<'_> {
    /// Returns the parent's chunks that start in a region, in disk order.
    pub(super) fn parent_chunks(&self, start: u64) -> Result<Vec<ChunkRef>, BackupError> {
        let Some(parent) = &self.parent else {
            return Ok(Vec::new());
        };
        let end = (start + REGION_LEN).min(parent.shape().size());
        if start >= end {
            return Ok(Vec::new());
        }
        let chunks: Result<Vec<ChunkRef>, RecipeError> = parent.chunks_in(start..end).collect();
        chunks.map_err(|source| self.recipe_error(source))
    }

    /// Returns the disk bytes of the region that starts at `start`.
    pub(super) fn region(&self, start: u64) -> Range<u64> {
        start..(start + REGION_LEN).min(self.shape.size())
    }

    /// Returns the disk bytes that are dirty because the parent's size is another.
    pub(super) fn resized(&self) -> Range<u64> {
        let size = self.shape.size();
        let parent = self
            .parent
            .as_ref()
            .map_or(size, |parent| parent.shape().size());
        Geometry::DISK.resized(parent, size)
    }

    /// Returns extents with what a delta leaves out beyond the parent's end as the zeros it is.
    pub(super) fn settle_beyond_parent(&self, extents: Vec<Extent>) -> Vec<Extent> {
        let Some(parent) = self
            .parent
            .as_ref()
            .filter(|_| !self.source.has_unchanged())
        else {
            return extents;
        };
        let parent_len = parent.shape().size();
        let mut settled = Vec::with_capacity(extents.len() + 1);
        for Extent {
            offset,
            len,
            status,
        } in extents
        {
            let beyond = match status {
                ExtentStatus::Unchanged => len - parent_len.saturating_sub(offset).min(len),
                _ => 0,
            };
            push_extent(&mut settled, offset, len - beyond, status);
            push_extent(
                &mut settled,
                offset + len - beyond,
                beyond,
                ExtentStatus::Zero,
            );
        }
        settled
    }

    /// Reads from the source.
    pub(super) fn read_source(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), BackupError> {
        self.source
            .read_many(parts)
            .map_err(|source| self.source_error(source))
    }

    pub(super) fn source_error(&self, source: SourceError) -> BackupError {
        match source {
            SourceError::Cancelled => BackupError::Cancelled,
            source => BackupError::Source {
                target: self.target.to_owned(),
                source,
            },
        }
    }

    pub(super) fn recipe_error(&self, source: RecipeError) -> BackupError {
        BackupError::Recipe {
            target: self.target.to_owned(),
            source,
        }
    }
}
