//! What one thread does to one region: read, cut, hash, look up, compress.

use std::ops::Range;

use super::BackupError;
use super::bytes::{RegionBuffer, RegionReader};
use super::disk::Disk;
use crate::chunker::{
    BlockSet, ChunkRef, Cutter, Geometry, Piece, Region, clean_holes, walk_region,
};
use crate::extent::{Extent, ExtentStatus};
use crate::id::ContentId;
use crate::pack::{Frame, Framer};
use crate::repository::Intake;

/// A region to be done.
#[derive(Debug)]
pub(super) struct RegionTask {
    /// Its place in the order of assembly.
    pub(super) ordinal: u64,
    /// Disk offset of its first byte.
    pub(super) start: u64,
    /// What the source says of it; covers it exactly.
    pub(super) extents: Vec<Extent>,
}

/// A region that is done.
#[derive(Debug)]
pub(super) struct RegionDone {
    pub(super) ordinal: u64,
    pub(super) start: u64,
    pub(super) chunks: Vec<ChunkRef>,
    pub(super) stats: RegionStats,
}

/// What was read and stored for a region.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RegionStats {
    pub(super) source_bytes: u64,
    pub(super) parent_bytes: u64,
    pub(super) dirty_bytes: u64,
    pub(super) new_chunks: u64,
    pub(super) new_bytes: u64,
}

/// One thread's tools.
pub(super) struct Worker<'w> {
    pub(super) disk: &'w Disk<'w>,
    pub(super) intake: &'w Intake,
    pub(super) cutter: &'w Cutter,
    pub(super) framer: Framer,
    /// Stored bytes of the frames that this thread made.
    pub(super) stored_bytes: u64,
}

/// A chunk as the walk found it.
struct Found {
    chunk: ChunkRef,
    /// Whether it was cut from bytes in memory, and so may have to be stored.
    cut: bool,
}

impl Worker<'_> {
    /// Does one region, in the memory given.
    pub(super) fn region(
        &mut self,
        task: RegionTask,
        buffer: &mut RegionBuffer,
    ) -> Result<RegionDone, BackupError> {
        let disk = self.disk;
        let range = disk.region(task.start);
        let parent = disk.parent_chunks(task.start)?;
        let dirty = match disk.parent {
            Some(_) => {
                let mut dirty = dirty_blocks(&range, &task.extents, disk.resized());
                // What the parent has lost is read again.
                for lost in disk.kept.lost_in(&range) {
                    dirty.insert_bytes(Geometry::DISK, &range, lost);
                }
                dirty
            }
            None => BlockSet::all(Geometry::DISK, &range),
        };
        let (mut reader, dirty_holes) =
            RegionReader::load_dirty(disk, buffer, range.clone(), &parent, &task.extents, &dirty)?;
        let mut holes = clean_holes(Geometry::DISK, &range, &parent, &dirty);
        dirty_holes
            .runs()
            .flatten()
            .for_each(|block| holes.insert(block));
        let region = Region {
            range: range.clone(),
            parent: &parent,
            dirty: &dirty,
            holes: &holes,
        };
        let found = walk(self.cutter, disk, &region, &mut reader)?;
        let mut stats = RegionStats {
            source_bytes: reader.stats.source_bytes,
            parent_bytes: reader.stats.parent_bytes,
            dirty_bytes: match disk.parent {
                Some(_) => dirty
                    .runs()
                    .map(|run| len(Geometry::DISK.bytes(&range, run)))
                    .sum(),
                None => 0,
            },
            ..RegionStats::default()
        };
        let new = claim(self.intake, &found)?;
        let (framer, intake, stored) = (&mut self.framer, self.intake, &mut self.stored_bytes);
        for run in touching(&new) {
            let contents: Vec<(ContentId, u32)> = run
                .iter()
                .map(|chunk| (chunk.id.into(), chunk.len))
                .collect();
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let bytes = reader.slice(&(first.offset..last.end()));
            stats.new_chunks += run.len() as u64;
            stats.new_bytes += bytes.len() as u64;
            framer.add_run(&contents, bytes, |frame| store(intake, stored, frame))?;
        }
        let chunks = found.into_iter().map(|found| found.chunk).collect();
        Ok(RegionDone {
            ordinal: task.ordinal,
            start: task.start,
            chunks,
            stats,
        })
    }

    /// Hands over the frame that is not full.
    pub(super) fn flush(&mut self) -> Result<(), BackupError> {
        match self.framer.flush() {
            Some(frame) => store(self.intake, &mut self.stored_bytes, frame),
            None => Ok(()),
        }
    }
}

/// Walks a region, and returns its chunks in disk order.
fn walk(
    cutter: &Cutter,
    disk: &Disk<'_>,
    region: &Region<'_>,
    reader: &mut RegionReader<'_>,
) -> Result<Vec<Found>, BackupError> {
    let keys = disk.contents.repository().keys();
    let mut found = Vec::new();
    walk_region(cutter, Geometry::DISK, region, reader, |piece| {
        found.push(match piece {
            Piece::Kept(chunk) => Found { chunk, cut: false },
            Piece::Cut { offset, bytes } => {
                let len = u32::try_from(bytes.len()).expect("at most CHUNK_LEN_MAX");
                let id = keys.chunk_id(bytes);
                let chunk = ChunkRef { offset, len, id };
                Found { chunk, cut: true }
            }
        });
        Ok::<(), BackupError>(())
    })?;
    Ok(found)
}

fn store(intake: &Intake, stored_bytes: &mut u64, frame: Frame) -> Result<(), BackupError> {
    *stored_bytes += frame.stored.len() as u64;
    Ok(intake.store(frame)?)
}

/// Returns the blocks of a region that may differ from the parent's.
fn dirty_blocks(range: &Range<u64>, extents: &[Extent], resized: Range<u64>) -> BlockSet {
    let mut dirty = BlockSet::default();
    for extent in extents {
        if extent.status != ExtentStatus::Unchanged {
            dirty.insert_bytes(Geometry::DISK, range, extent.range());
        }
    }
    dirty.insert_bytes(Geometry::DISK, range, resized);
    dirty
}

/// Returns the chunks that have to be stored, in disk order.
///
/// Asks the index even for chunks that the parent has: one whose pack has since been lost is stored
/// anew.
fn claim(intake: &Intake, found: &[Found]) -> Result<Vec<ChunkRef>, BackupError> {
    let cut = found.iter().filter(|found| found.cut);
    let candidates: Vec<ChunkRef> = cut.map(|found| found.chunk).collect();
    let ids: Vec<ContentId> = candidates.iter().map(|chunk| chunk.id.into()).collect();
    let claimed = intake.claim(&ids)?;
    let new = candidates
        .into_iter()
        .zip(claimed)
        .filter(|(_, claimed)| *claimed);
    Ok(new.map(|(chunk, _)| chunk).collect())
}

fn len(range: Range<u64>) -> u64 {
    range.end - range.start
}

/// Splits chunks into runs that touch on the disk, and so in memory.
fn touching(chunks: &[ChunkRef]) -> impl Iterator<Item = &[ChunkRef]> {
    chunks.chunk_by(|a, b| a.end() == b.offset)
}
