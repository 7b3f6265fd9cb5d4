//! Whether the source's word on what is unchanged holds for the parent: it may be another disk's
//! bitmap, one that was cleared at the wrong time, or an image that was put back.
//!
//! A few samples are always taken, and the last that can tell whether the disk was once shorter.
//! Whoever asks for an audit has a share of all of it read.

use std::ops::Range;

use super::BackupError;
use super::disk::Disk;
use super::pipeline::Run;
use crate::chunker::{ChunkRef, is_zero};
use crate::extent::{Extent, ExtentStatus};
use crate::limits::{MIB, REGION_LEN};
use crate::progress::Progress;
use crate::recipe::RegionChunks;
use crate::repository::RepositoryError;

/// How much the source is asked about at once, from the end of the disk backwards.
const STEP_LEN: u64 = 64 * REGION_LEN;
/// Most chunks of zeros that are read there. They tell nothing, and a guest can make many.
const ZEROS_MAX: usize = 256;
/// Fewest and most clean chunks that are read again and compared.
const SAMPLES: std::ops::RangeInclusive<u64> = 4..=64;

impl Disk<'_> {
    /// Reads some of the chunks that the source calls unchanged, and returns where one is not what
    /// the parent says. More are read where more has changed, so that this is never much of the
    /// work; what it finds for sure is a bitmap of another disk or another time.
    pub(super) fn find_mismatch(&self, dirty_bytes: u64) -> Result<Option<u64>, BackupError> {
        let Some(parent) = self.parent.as_ref().filter(|_| self.source.has_unchanged()) else {
            return Ok(None);
        };
        let common = parent.shape().size().min(self.shape.size());
        if let Some(offset) = self.mismatch_at_end(common)? {
            return Ok(Some(offset));
        }
        let samples = (dirty_bytes / MIB).clamp(*SAMPLES.start(), *SAMPLES.end());
        let mut bytes = Vec::new();
        for _ in 0..samples {
            let mut random = [0; 8];
            if common == 0 || getrandom::fill(&mut random).is_err() {
                return Ok(None);
            }
            let from = u64::from_le_bytes(random) % common;
            let Some(chunk) = parent.chunks_in(from..common).next() else {
                continue;
            };
            let chunk = chunk.map_err(|error| self.recipe_error(error))?;
            let is_clean = chunk.end() <= common && self.is_unchanged(&chunk)?;
            if is_clean && !self.is_same(&chunk, &mut bytes)? {
                return Ok(Some(chunk.offset));
            }
        }
        Ok(None)
    }

    /// Looks whether the disk was shrunk and grown back, which marks nothing: it reads as zeros
    /// from somewhere on, up to its end, but for what was written since.
    ///
    /// So the last chunk that is called unchanged and is more than zeros decides it: if that is as
    /// it was, so is all that comes before it, as far as this is concerned; and what comes after it
    /// was zeros.
    fn mismatch_at_end(&self, common: u64) -> Result<Option<u64>, BackupError> {
        let (mut zeros, mut bytes) = (0, Vec::new());
        for step in (0..common.div_ceil(STEP_LEN)).rev() {
            let range = step * STEP_LEN..((step + 1) * STEP_LEN).min(common);
            let unchanged = self.unchanged_in(range.clone())?;
            let regions = (range.end - range.start).div_ceil(REGION_LEN);
            for region in (0..regions).rev().map(|n| range.start + n * REGION_LEN) {
                for chunk in self.kept_chunks(region, &unchanged)?.iter().rev() {
                    if !self.is_same(chunk, &mut bytes)? {
                        return Ok(Some(chunk.offset));
                    }
                    zeros += 1;
                    if zeros == ZEROS_MAX || !is_zero(&bytes) {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns the parent's chunks of a region that lie in what is unchanged.
    fn kept_chunks(
        &self,
        region: u64,
        unchanged: &[Range<u64>],
    ) -> Result<Vec<ChunkRef>, BackupError> {
        let first = unchanged.partition_point(|part| part.end <= region);
        let unchanged = &unchanged[first..];
        if (unchanged.first()).is_none_or(|part| part.start >= region + REGION_LEN) {
            return Ok(Vec::new());
        }
        let mut chunks = self.parent_chunks(region)?;
        chunks.retain(|chunk| {
            let part = unchanged.partition_point(|part| part.end < chunk.end());
            (unchanged.get(part)).is_some_and(|part| part.start <= chunk.offset)
        });
        Ok(chunks)
    }

    /// Reads a chunk from the source, and returns whether it is as it was.
    fn is_same(&self, chunk: &ChunkRef, bytes: &mut Vec<u8>) -> Result<bool, BackupError> {
        bytes.resize(chunk.len as usize, 0);
        self.read_source(&mut [(chunk.offset, bytes)])?;
        Ok(self.contents.repository().keys().chunk_id(bytes) == chunk.id)
    }

    /// Returns what the source calls unchanged of a range.
    fn unchanged_in(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, BackupError> {
        let extents = self.source.extents(range);
        let extents = extents.map_err(|error| self.source_error(error))?;
        let extents = extents.iter();
        let unchanged = extents.filter(|extent| extent.status == ExtentStatus::Unchanged);
        Ok(unchanged.map(Extent::range).collect())
    }

    fn is_unchanged(&self, chunk: &ChunkRef) -> Result<bool, BackupError> {
        let unchanged = self.unchanged_in(chunk.offset..chunk.end())?;
        let bytes: u64 = unchanged.iter().map(|part| part.end - part.start).sum();
        Ok(bytes == u64::from(chunk.len))
    }
}

impl Run<'_> {
    /// Reads that share of the chunks that the source calls unchanged, and compares them with the
    /// parent's.
    ///
    /// # Errors
    ///
    /// [`BackupError::AuditFailed`] for the first that differs.
    pub(super) fn audit(&self, percent: u8) -> Result<(), BackupError> {
        let disk = self.disk;
        let parent = disk.parent.filter(|_| disk.source.has_unchanged());
        let Some(parent) = parent.filter(|_| percent > 0) else {
            return Ok(());
        };
        let common = parent.shape().size().min(disk.shape.size());
        for region in parent.regions() {
            let mut region = region.map_err(|error| disk.recipe_error(error))?;
            let is_stopped = || self.failure.is_set() || self.cancel.is_cancelled();
            if is_stopped() {
                return Err(BackupError::Cancelled);
            }
            // Chunks at the end of a longer parent are no longer what they were. One that leaves
            // its region is none of ours, and would not fit.
            let end = common.min(region.start + REGION_LEN);
            region.chunks.retain(|chunk| chunk.end() <= end);
            disk.keep_unchanged(&mut region)?;
            region.chunks.retain(|_| is_chosen(percent));
            if region.chunks.is_empty() {
                continue;
            }
            let slot = self.slots.take(self.lane, is_stopped);
            let Some(mut slot) = slot.map_err(RepositoryError::NoThread)? else {
                return Err(BackupError::Cancelled);
            };
            disk.compare(&region.chunks, slot.buffer().memory())?;
            let read = region.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
            Progress::add(&self.progress.read_bytes, read);
        }
        Ok(())
    }
}

impl Disk<'_> {
    /// Leaves those chunks of a region of which the source says that all of it is unchanged.
    fn keep_unchanged(&self, region: &mut RegionChunks) -> Result<(), BackupError> {
        let Some(last) = region.chunks.last() else {
            return Ok(());
        };
        let extents = self.source.extents(region.start..last.end());
        let extents = extents.map_err(|error| self.source_error(error))?;
        let changed: Vec<_> = extents
            .iter()
            .filter(|extent| extent.status != ExtentStatus::Unchanged)
            .map(Extent::range)
            .collect();
        region.chunks.retain(|chunk| {
            let next = changed.partition_point(|part| part.end <= chunk.offset);
            changed
                .get(next)
                .is_none_or(|part| part.start >= chunk.end())
        });
        Ok(())
    }

    /// Reads chunks of one region, all at once, and compares them.
    fn compare(&self, chunks: &[ChunkRef], memory: &mut [u8]) -> Result<(), BackupError> {
        let mut parts = Vec::with_capacity(chunks.len());
        let mut rest = memory;
        for run in chunks.chunk_by(|a, b| a.end() == b.offset) {
            let len = run.iter().map(|chunk| chunk.len as usize).sum();
            let (part, after) = rest.split_at_mut(len);
            parts.extend(run.first().map(|first| (first.offset, part)));
            rest = after;
        }
        self.read_source(&mut parts)?;
        let keys = self.contents.repository().keys();
        let mut chunks = chunks.iter();
        for (_, part) in parts {
            let mut part = &*part;
            while !part.is_empty() {
                let chunk = chunks.next().expect("each part is made of chunks");
                let (bytes, after) = part.split_at(chunk.len as usize);
                if keys.chunk_id(bytes) != chunk.id {
                    return Err(BackupError::AuditFailed {
                        target: self.target.to_owned(),
                        offset: chunk.offset,
                    });
                }
                part = after;
            }
        }
        Ok(())
    }
}

/// Returns whether a chunk is among the share. Chunks are chosen alike whatever their length, so
/// that the share is one of bytes.
fn is_chosen(percent: u8) -> bool {
    let mut random = [0; 4];
    // Without random numbers all are read: that promises no less.
    percent >= 100
        || getrandom::fill(&mut random).is_err()
        || u32::from_le_bytes(random) % 100 < percent.into()
}
