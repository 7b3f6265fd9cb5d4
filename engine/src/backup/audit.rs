//! Whether the parent of an incremental can be built on. Two doubts are looked into: that packs of
//! the repository are gone, and that the source's word on what is unchanged does not hold for this
//! parent (another disk's bitmap, one that was cleared at the wrong time, an image put back).

use super::BackupError;
use super::disk::Disk;
use crate::chunker::ChunkRef;
use crate::extent::ExtentStatus;
use crate::id::ContentId;
use crate::limits::MIB;

/// Fewest and most clean chunks that are read again and compared.
const SAMPLES: std::ops::RangeInclusive<u64> = 4..=64;

impl Disk<'_> {
    /// Returns whether every chunk of the parent is in a pack. Asked where packs are known to be
    /// gone or unreadable, since chunks are kept without asking for them.
    pub(super) fn is_parent_whole(&self) -> Result<bool, BackupError> {
        let report = self.contents.index_report();
        if report.dropped.is_empty() && report.unreadable.is_empty() {
            return Ok(true);
        }
        let Some(parent) = &self.parent else {
            return Ok(true);
        };
        for region in parent.regions() {
            let region = match region {
                Ok(region) => region,
                Err(error) if error.is_damage() => return Ok(false),
                Err(error) => return Err(self.recipe_error(error)),
            };
            let ids: Vec<ContentId> = region.chunks.iter().map(|chunk| chunk.id.into()).collect();
            if self.contents.locate(&ids)?.iter().any(Option::is_none) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads some of the chunks that the source calls unchanged, and returns where one is not what
    /// the parent says. More are read where more has changed, so that this is never much of the
    /// work; what it finds for sure is a bitmap of another disk or another time.
    pub(super) fn find_mismatch(&self, dirty_bytes: u64) -> Result<Option<u64>, BackupError> {
        let Some(parent) = self.parent.as_ref().filter(|_| self.source.has_unchanged()) else {
            return Ok(None);
        };
        let common = parent.shape().size().min(self.shape.size());
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
            if chunk.end() <= common && self.is_unchanged(&chunk)? {
                bytes.resize(chunk.len as usize, 0);
                self.read_source(&mut [(chunk.offset, &mut bytes)])?;
                if self.contents.repository().keys().chunk_id(&bytes) != chunk.id {
                    return Ok(Some(chunk.offset));
                }
            }
        }
        Ok(None)
    }

    fn is_unchanged(&self, chunk: &ChunkRef) -> Result<bool, BackupError> {
        let extents = self.source.extents(chunk.offset..chunk.end());
        let extents = extents.map_err(|error| self.source_error(error))?;
        Ok(extents
            .iter()
            .all(|extent| extent.status == ExtentStatus::Unchanged))
    }
}
