//! One region's bytes in memory, read no earlier and no further than needed.
//!
//! Dirty blocks are read at once, since their zeros decide the segments. Clean bytes are read when
//! the walk asks for them, from the source where it serves them at the same point in time, else
//! from the parent snapshot.

use std::ops::Range;

use memmap2::MmapMut;

use super::BackupError;
use super::disk::Disk;
use crate::chunker::{BlockSet, ChunkRef, Geometry, LOOK_AHEAD, RegionBytes, is_zero};
use crate::extent::{Extent, ExtentStatus};
use crate::limits::REGION_LEN;
use crate::repository::Fetcher;

/// Granularity in which clean bytes are read.
const PAGE_LEN: u64 = 4096;
const PAGES: usize = (REGION_LEN / PAGE_LEN) as usize;

/// A buffer for one region, reused for the next.
pub(super) struct RegionBuffer {
    memory: MmapMut,
    fetcher: Fetcher,
}

impl RegionBuffer {
    /// Maps the memory. It is anonymous and aligned to pages, so that the kernel can back it with
    /// huge ones.
    pub(super) fn new() -> std::io::Result<Self> {
        let len = usize::try_from(REGION_LEN).expect("a region fits in memory");
        let memory = MmapMut::map_anon(len)?;
        // Only a hint: a kernel without huge pages serves small ones.
        drop(memory.advise(memmap2::Advice::HugePage));
        Ok(Self {
            memory,
            fetcher: Fetcher::default(),
        })
    }

    /// Returns the memory, for whatever is not read as a region.
    pub(super) fn memory(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

/// What was processed to learn a region's bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReadStats {
    pub(super) source_bytes: u64,
    pub(super) parent_bytes: u64,
}

/// The region that a thread is at.
pub(super) struct RegionReader<'r> {
    disk: &'r Disk<'r>,
    buffer: &'r mut RegionBuffer,
    range: Range<u64>,
    parent: &'r [ChunkRef],
    /// Pages of the region that are in memory.
    loaded: Box<[bool; PAGES]>,
    pub(super) stats: ReadStats,
}

impl<'r> RegionReader<'r> {
    /// Reads the dirty blocks; returns which of them are holes with what holds the rest.
    pub(super) fn load_dirty(
        disk: &'r Disk<'r>,
        buffer: &'r mut RegionBuffer,
        range: Range<u64>,
        parent: &'r [ChunkRef],
        extents: &[Extent],
        dirty: &BlockSet,
    ) -> Result<(Self, BlockSet), BackupError> {
        let loaded = Box::new([false; PAGES]);
        let stats = ReadStats::default();
        let mut reader = Self {
            disk,
            buffer,
            range,
            parent,
            loaded,
            stats,
        };
        let mut wanted = Vec::new();
        let mut last_end = reader.range.start;
        let runs: Vec<_> = dirty.runs().collect();
        for (number, run) in runs.iter().enumerate() {
            let bytes = Geometry::DISK.bytes(&reader.range, run.clone());
            reader.load_known(&bytes, extents, &mut wanted)?;
            if reader.disk.source.has_unchanged() {
                let next = runs.get(number + 1);
                let next = next.map_or(reader.range.end, |run| {
                    Geometry::DISK.bytes(&reader.range, run.clone()).start
                });
                reader.around(&bytes, last_end..next, &mut wanted);
            }
            last_end = bytes.end;
        }
        reader.read_source(wanted)?;
        let mut holes = BlockSet::default();
        for run in runs {
            reader.mark_loaded(&Geometry::DISK.bytes(&reader.range, run.clone()));
            for block in run {
                let at = Geometry::DISK.bytes(&reader.range, block..block + 1);
                if is_zero(reader.slice(&at)) {
                    holes.insert(block);
                }
            }
        }
        Ok((reader, holes))
    }

    /// Loads what the extents and the parent tell of one run of dirty blocks, and adds the rest to
    /// what is wanted of the source.
    fn load_known(
        &mut self,
        run: &Range<u64>,
        extents: &[Extent],
        wanted: &mut Vec<Range<u64>>,
    ) -> Result<(), BackupError> {
        for extent in extents {
            let part = extent.offset.max(run.start)..extent.range().end.min(run.end);
            if part.is_empty() {
                continue;
            }
            match extent.status {
                ExtentStatus::Zero => self.slice_mut(&part).fill(0),
                ExtentStatus::Unchanged if !self.disk.source.has_unchanged() => {
                    self.read_clean(&part)?;
                }
                ExtentStatus::Data | ExtentStatus::Unchanged => wanted.push(part),
            }
        }
        Ok(())
    }

    /// Adds the clean bytes around a run of dirty blocks that the walk is sure to ask for: from the
    /// start of the chunk that the run begins in or touches, to the end of the one it ends in.
    /// `gap` is what lies between the runs next to it. A source that each request takes long to
    /// reach then gives them with the dirty ones.
    fn around(&self, run: &Range<u64>, gap: Range<u64>, wanted: &mut Vec<Range<u64>>) {
        let before = self
            .parent
            .partition_point(|chunk| chunk.offset < run.start);
        if let Some(chunk) = before.checked_sub(1).and_then(|at| self.parent.get(at))
            && chunk.end() + LOOK_AHEAD > run.start
        {
            let start = chunk.offset / PAGE_LEN * PAGE_LEN;
            wanted.push(start.max(gap.start)..run.start);
        }
        let after = self.parent.partition_point(|chunk| chunk.end() <= run.end);
        if let Some(chunk) = self
            .parent
            .get(after)
            .filter(|chunk| chunk.offset <= run.end)
        {
            let rest = match chunk.offset + 1 < run.end {
                true => chunk.end(),
                false => chunk.offset,
            };
            let end = (rest + LOOK_AHEAD).next_multiple_of(PAGE_LEN);
            wanted.push(run.end..end.min(gap.end));
        }
    }

    /// Reads ranges from the source, all at once; where they overlap, once.
    fn read_source(&mut self, mut wanted: Vec<Range<u64>>) -> Result<(), BackupError> {
        wanted.retain(|part| !part.is_empty());
        wanted.sort_unstable_by_key(|part| part.start);
        wanted.dedup_by(|next, part| {
            let touches = next.start <= part.end;
            if touches {
                part.end = part.end.max(next.end);
            }
            touches
        });
        let mut parts = Vec::with_capacity(wanted.len());
        let mut rest = &mut self.buffer.memory[..];
        let mut at = self.range.start;
        for part in &wanted {
            let (_, from) = rest.split_at_mut(place(at, part).start);
            let (buf, after) = from.split_at_mut(place(part.start, part).end);
            parts.push((part.start, buf));
            (rest, at) = (after, part.end);
        }
        self.disk.read_source(&mut parts)?;
        for part in &wanted {
            self.stats.source_bytes += part.end - part.start;
            self.mark_loaded(part);
        }
        Ok(())
    }

    /// Reads bytes that are as they were in the parent.
    fn read_clean(&mut self, part: &Range<u64>) -> Result<(), BackupError> {
        if self.disk.source.has_unchanged() {
            return self.read_source(vec![part.clone()]);
        }
        self.slice_mut(part).fill(0);
        let chunks: Vec<ChunkRef> = self
            .parent
            .iter()
            .filter(|chunk| chunk.offset < part.end && chunk.end() > part.start)
            .copied()
            .collect();
        let start = self.range.start;
        let RegionBuffer { memory, fetcher } = &mut *self.buffer;
        let mut processed = 0;
        self.disk
            .contents
            .fetch(&chunks, fetcher, &mut |offset, bytes: &[u8]| {
                processed += bytes.len() as u64;
                let end = offset + bytes.len() as u64;
                let common = offset.max(part.start)..end.min(part.end);
                if !common.is_empty() {
                    let from = place(offset, &common);
                    memory[place(start, &common)].copy_from_slice(&bytes[from]);
                }
                Ok::<(), BackupError>(())
            })?;
        self.stats.parent_bytes += processed;
        Ok(())
    }

    fn pages(&self, part: &Range<u64>) -> Range<usize> {
        let at = self.within(part);
        let page = usize::try_from(PAGE_LEN).expect("a page fits in memory");
        at.start / page..at.end.div_ceil(page)
    }

    fn mark_loaded(&mut self, part: &Range<u64>) {
        let pages = self.pages(part);
        self.loaded[pages].fill(true);
    }

    fn within(&self, part: &Range<u64>) -> Range<usize> {
        place(self.range.start, part)
    }

    /// Returns bytes that are loaded.
    pub(super) fn slice(&self, part: &Range<u64>) -> &[u8] {
        &self.buffer.memory[self.within(part)]
    }

    fn slice_mut(&mut self, part: &Range<u64>) -> &mut [u8] {
        let at = self.within(part);
        &mut self.buffer.memory[at]
    }
}

/// Returns where a range of disk offsets lies in memory that begins at `start`.
fn place(start: u64, part: &Range<u64>) -> Range<usize> {
    let index = |offset: u64| usize::try_from(offset - start).expect("a region fits in memory");
    index(part.start)..index(part.end)
}

impl RegionBytes<BackupError> for RegionReader<'_> {
    fn bytes(&mut self, range: Range<u64>) -> Result<&[u8], BackupError> {
        let mut page = self.pages(&range).start;
        let end = self.pages(&range).end;
        while page < end {
            if self.loaded[page] {
                page += 1;
                continue;
            }
            let missing = self.loaded[page..end]
                .iter()
                .take_while(|loaded| !**loaded)
                .count();
            let offset = |page: usize| self.range.start + page as u64 * PAGE_LEN;
            let part = offset(page)..offset(page + missing).min(self.range.end);
            self.read_clean(&part)?;
            self.mark_loaded(&part);
            page += missing;
        }
        Ok(self.slice(&range))
    }
}
