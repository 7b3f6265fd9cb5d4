//! The walk over one region: which chunks of the parent still stand, and where to cut anew.
//!
//! FastCDC carries no state across a cut, so wherever the walk reaches an offset at which the
//! parent has a chunk, that chunk is the one that cutting would find, if what FastCDC saw when it
//! cut the parent is what it would see now. It sees the chunk's own bytes, up to [`LOOK_AHEAD`]
//! bytes after them (v2020 works in pairs, and has hashed the byte at the cut), and how far the
//! segment goes (it asks no further than that, and may leave a cut one byte before it untested).
//! `Walk::may_keep` asks exactly that. Simpler rules give other chunks than a full backup in rare
//! cases, which is why each clause has a test that fails without it.
//!
//! Clean bytes are asked for as late as can be. Past the dirty blocks, the walk can only come to
//! rest where a chunk of the parent starts, so it asks up to the next such place and the look-ahead
//! past it, never beyond: no clean byte is asked for that is not in a chunk cut anew, but for the
//! look-ahead after the last.

use std::ops::Range;

use crate::id::ChunkId;

use super::{BlockSet, Cutter, Geometry};

/// Bytes after a chunk that its cut may depend on.
pub const LOOK_AHEAD: u64 = 2;

/// A chunk at its place on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Disk offset of the first byte.
    pub offset: u64,
    /// Length in bytes; never zero.
    pub len: u32,
    /// What the bytes hash to.
    pub id: ChunkId,
}

impl ChunkRef {
    /// Returns the disk offset after the last byte.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// The bytes of one region as they are now.
pub trait RegionBytes<E> {
    /// Returns the bytes of a range of disk offsets, which lies inside one segment of the region.
    ///
    /// Ranges come in ascending order of their starts; a range may overlap the one before, or be
    /// the same but longer. Of clean blocks, only bytes that a cut needs are asked for.
    ///
    /// # Errors
    ///
    /// Whatever keeps the bytes from being read; the walk ends with it.
    fn bytes(&mut self, range: Range<u64>) -> Result<&[u8], E>;
}

/// A region that lies in memory whole.
#[derive(Debug, Clone, Copy)]
pub struct RegionBuffer<'a> {
    start: u64,
    bytes: &'a [u8],
}

impl<'a> RegionBuffer<'a> {
    /// Returns the region of these bytes; `start` is the disk offset of the first.
    pub const fn new(start: u64, bytes: &'a [u8]) -> Self {
        Self { start, bytes }
    }
}

impl<E> RegionBytes<E> for RegionBuffer<'_> {
    fn bytes(&mut self, range: Range<u64>) -> Result<&[u8], E> {
        // Both lie within a slice, so they fit.
        Ok(&self.bytes[(range.start - self.start) as usize..(range.end - self.start) as usize])
    }
}

/// A chunk of the new disk, as the walk comes to it.
#[derive(Debug)]
pub enum Piece<'a> {
    /// The parent's chunk stands; its bytes were not asked for.
    Kept(ChunkRef),
    /// A chunk cut from the bytes; it may equal one that the parent has.
    Cut {
        /// Disk offset of the first byte.
        offset: u64,
        /// The whole chunk.
        bytes: &'a [u8],
    },
}

/// What is known of a region before the walk.
#[derive(Debug, Clone)]
pub struct Region<'a> {
    /// Disk offsets, from a multiple of the region length to its end or the disk's.
    pub range: Range<u64>,
    /// The parent's chunks that start in this region, in disk order, those past the end of the new
    /// disk too. Empty without a parent, and if its chunker settings or gear table are others.
    pub parent: &'a [ChunkRef],
    /// Blocks that may differ from the parent's. Without a parent, all: they are then asked for in
    /// the longest runs that a cut can use.
    pub dirty: &'a BlockSet,
    /// Blocks that are zero on the new disk.
    pub holes: &'a BlockSet,
}

/// Returns the holes among the clean blocks of a region: those that no chunk of the parent covers.
///
/// Which dirty blocks are holes shows only in their bytes ([`super::is_zero`]).
pub fn clean_holes(
    geometry: Geometry,
    region: &Range<u64>,
    parent: &[ChunkRef],
    dirty: &BlockSet,
) -> BlockSet {
    let mut taken = *dirty;
    for chunk in parent {
        taken.insert_bytes(geometry, region, chunk.offset..chunk.end());
    }
    BlockSet::all(geometry, region).difference(&taken)
}

/// Walks a region from start to end and hands every chunk of it to `emit`, in disk order.
///
/// The chunks are the same whatever the parent and whatever is dirty, as long as the clean blocks
/// hold what the parent's chunks say. They tile the segments of the region exactly.
///
/// # Errors
///
/// The first error of `bytes` or `emit`, at once.
///
/// # Panics
///
/// If the range is not a region's, or `bytes` returns another length than it was asked for.
pub fn walk_region<E, B: RegionBytes<E>>(
    cutter: &Cutter,
    geometry: Geometry,
    region: &Region<'_>,
    bytes: &mut B,
    mut emit: impl FnMut(Piece<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let range = &region.range;
    assert!(
        range.start.is_multiple_of(geometry.region_len()),
        "not the start of a region"
    );
    assert!(
        range.end <= range.start + geometry.region_len(),
        "longer than a region"
    );
    let data = BlockSet::all(geometry, range).difference(region.holes);
    let mut walk = Walk {
        cutter,
        geometry,
        region,
        parent: Parent::new(region.parent),
    };
    for run in data.runs() {
        walk.segment(geometry.bytes(range, run), bytes, &mut emit)?;
    }
    Ok(())
}

struct Walk<'a> {
    cutter: &'a Cutter,
    geometry: Geometry,
    region: &'a Region<'a>,
    parent: Parent<'a>,
}

impl Walk<'_> {
    fn segment<E, B: RegionBytes<E>>(
        &mut self,
        segment: Range<u64>,
        bytes: &mut B,
        emit: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = segment.start;
        let mut asked = at;
        while at < segment.end {
            if let Some(chunk) = self.parent.chunk_at(at)
                && self.may_keep(&chunk, segment.end)
            {
                emit(Piece::Kept(chunk))?;
                at = chunk.end();
                continue;
            }
            at = self.cut(at..segment.end, &mut asked, bytes, emit)?;
        }
        Ok(())
    }

    /// Cuts one chunk from the start of what is left of a segment, and returns its end.
    ///
    /// `asked` is how far bytes have been asked for.
    fn cut<E, B: RegionBytes<E>>(
        &mut self,
        rest: Range<u64>,
        asked: &mut u64,
        bytes: &mut B,
        emit: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let at = rest.start;
        let farthest = rest.end.min(at + u64::from(self.cutter.params().max()));
        // Dirty bytes are free: they have been read to see whether they are zeros.
        let mut window_end = match self.dirty_run_end(at.max(*asked)) {
            Some(run_end) => run_end,
            None if at < *asked => *asked,
            None => self.ask_up_to(at, at),
        };
        loop {
            window_end = window_end.min(farthest);
            let window = bytes.bytes(at..window_end)?;
            assert_eq!(
                window.len() as u64,
                window_end - at,
                "bytes of another length"
            );
            let len = self.cutter.cut(window);
            let end = at + len as u64;
            if window_end == farthest || end + LOOK_AHEAD <= window_end {
                *asked = window_end.max(*asked);
                emit(Piece::Cut {
                    offset: at,
                    bytes: &window[..len],
                })?;
                return Ok(end);
            }
            window_end = self.ask_up_to(at, window_end);
        }
    }

    /// Returns how far to ask for bytes when those up to `window_end` do not settle the cut of the
    /// chunk at `at`: to the next place where the walk may come to rest, and through dirty blocks.
    fn ask_up_to(&mut self, at: u64, window_end: u64) -> u64 {
        if let Some(run_end) = self.dirty_run_end(window_end) {
            return run_end;
        }
        let shortest_end = at + u64::from(self.cutter.params().min());
        let unseen = (window_end + 1).saturating_sub(LOOK_AHEAD);
        let Some(start) = self.parent.start_from(shortest_end.max(unseen)) else {
            return u64::MAX;
        };
        let target = start + LOOK_AHEAD;
        self.dirty_run_end(target - 1).unwrap_or(target)
    }

    /// Returns the end of the run of dirty blocks that holds a disk offset, if one does.
    fn dirty_run_end(&self, offset: u64) -> Option<u64> {
        let range = &self.region.range;
        let block = self.geometry.blocks(range, offset..offset + 1).start;
        let dirty = offset < range.end && self.region.dirty.contains(block);
        let run = block..self.region.dirty.next_out(block);
        dirty.then(|| self.geometry.bytes(range, run).end)
    }

    /// Returns whether cutting at a chunk of the parent, reached by the walk in a segment with
    /// this end, would find that same chunk.
    ///
    /// That the parent's segment ended elsewhere already shows in a dirty block after the chunk;
    /// it is asked for all the same, lest the answer hang on how dirty bytes were rounded.
    fn may_keep(&mut self, chunk: &ChunkRef, segment_end: u64) -> bool {
        assert!(chunk.len > 0, "an empty chunk in the parent");
        let end = chunk.end();
        let seen = chunk.offset..segment_end.min(end + LOOK_AHEAD);
        if end > segment_end || self.is_dirty(seen) {
            return false;
        }
        let parent_end = self.parent.segment_end();
        chunk.len == self.cutter.params().max()
            || (end + LOOK_AHEAD <= segment_end && end + LOOK_AHEAD <= parent_end)
            || segment_end == parent_end
    }

    fn is_dirty(&self, bytes: Range<u64>) -> bool {
        let blocks = self.geometry.blocks(&self.region.range, bytes);
        self.region
            .dirty
            .next_in(blocks.start)
            .is_some_and(|block| block < blocks.end)
    }
}

/// The parent's chunks in one region, asked about in the order of the walk.
struct Parent<'a> {
    chunks: &'a [ChunkRef],
    /// The first chunk that does not start before where the walk is.
    next: usize,
    /// The first chunk that does not start before what was asked for.
    ahead: usize,
    /// The first chunk past the segment whose end is known, and that end.
    segment: (usize, u64),
}

impl<'a> Parent<'a> {
    const fn new(chunks: &'a [ChunkRef]) -> Self {
        Self {
            chunks,
            next: 0,
            ahead: 0,
            segment: (0, 0),
        }
    }

    /// Returns the chunk that starts at `offset`.
    fn chunk_at(&mut self, offset: u64) -> Option<ChunkRef> {
        self.next = self.skip(self.next, offset);
        self.chunks
            .get(self.next)
            .copied()
            .filter(|chunk| chunk.offset == offset)
    }

    /// Returns the start of the first chunk that starts at or after `offset`.
    fn start_from(&mut self, offset: u64) -> Option<u64> {
        self.ahead = self.skip(self.ahead, offset);
        self.chunks.get(self.ahead).map(|chunk| chunk.offset)
    }

    fn skip(&self, from: usize, offset: u64) -> usize {
        let rest = self.chunks.get(from..).unwrap_or_default();
        from + rest
            .iter()
            .take_while(|chunk| chunk.offset < offset)
            .count()
    }

    /// Returns where the parent's segment ends that holds the chunk last returned: chunks that
    /// touch are of one segment, since two segments of a region have a block between them.
    fn segment_end(&mut self) -> u64 {
        if self.next >= self.segment.0 {
            let run = self.chunks.get(self.next..).unwrap_or_default();
            let touching = run
                .windows(2)
                .take_while(|pair| pair[0].end() == pair[1].offset);
            let last = self.next + touching.count();
            self.segment = (last + 1, self.chunks.get(last).map_or(0, ChunkRef::end));
        }
        self.segment.1
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::{CutParams, GearTable};
    use super::*;

    const GEOMETRY: (u64, u64) = (4096, 65536);

    /// One byte repeated is never cut but at the longest chunk.
    const MAX: u64 = 2048;

    /// Walks a region of ones and returns each piece's offset, length and whether it was kept.
    fn walk(region: &Region<'_>) -> Vec<(u64, u64, bool)> {
        let cutter = Cutter::new(CutParams::new(256, 512, 2048), GearTable::public());
        let geometry = Geometry::new(GEOMETRY.0, GEOMETRY.1);
        let bytes = vec![1; 65536];
        let mut pieces = Vec::new();
        let walked: Result<(), Infallible> = walk_region(
            &cutter,
            geometry,
            region,
            &mut RegionBuffer::new(0, &bytes),
            |piece| {
                pieces.push(match piece {
                    Piece::Kept(chunk) => (chunk.offset, u64::from(chunk.len), true),
                    Piece::Cut { offset, bytes } => (offset, bytes.len() as u64, false),
                });
                Ok(())
            },
        );
        let Ok(()) = walked;
        pieces
    }

    fn chunks(lens: &[u32]) -> Vec<ChunkRef> {
        let mut offset = 0;
        let place = |&len: &u32| {
            let chunk = ChunkRef {
                offset,
                len,
                id: ChunkId::from_bytes([0; 32]),
            };
            offset += u64::from(len);
            chunk
        };
        lens.iter().map(place).collect()
    }

    fn blocks(numbers: &[usize]) -> BlockSet {
        let mut set = BlockSet::default();
        numbers.iter().for_each(|&number| set.insert(number));
        set
    }

    #[test]
    fn a_region_of_holes_has_no_chunks() {
        let region = 0..65536;
        let holes = BlockSet::all(Geometry::new(GEOMETRY.0, GEOMETRY.1), &region);
        let dirty = BlockSet::default();
        let region = Region {
            range: region,
            parent: &[],
            dirty: &dirty,
            holes: &holes,
        };
        assert_eq!(walk(&region), []);
    }

    #[test]
    fn segments_end_at_holes_and_at_the_end_of_the_disk() {
        let dirty = blocks(&[0, 1, 2]);
        let holes = blocks(&[1]);
        let region = Region {
            range: 0..2 * 4096 + 7,
            parent: &[],
            dirty: &dirty,
            holes: &holes,
        };
        let whole = [(0, MAX, false), (MAX, MAX, false), (8192, 7, false)];
        assert_eq!(walk(&region), whole);
    }

    #[test]
    fn a_longest_chunk_stands_wherever_its_segment_ends() {
        let parent = chunks(&[2048; 4]);
        let (dirty, holes) = (blocks(&[1]), blocks(&[1]));
        let region = Region {
            range: 0..4096,
            parent: &parent,
            dirty: &dirty,
            holes: &holes,
        };
        assert_eq!(walk(&region), [(0, MAX, true), (MAX, MAX, true)]);
    }

    #[test]
    fn a_shorter_chunk_at_a_segments_end_falls_when_the_segment_goes_on() {
        let parent = chunks(&[2048, 2048, 2048, 1000, 1048]);
        let (dirty, holes) = (blocks(&[2]), BlockSet::default());
        let grown = Region {
            range: 0..10_000,
            parent: &parent,
            dirty: &dirty,
            holes: &holes,
        };
        let kept = [
            (0, MAX, true),
            (MAX, MAX, true),
            (2 * MAX, MAX, true),
            (3 * MAX, 1000, true),
        ];
        let cut = [(3 * MAX + 1000, MAX, false), (4 * MAX + 1000, 808, false)];
        assert_eq!(walk(&grown), [&kept[..], &cut[..]].concat());
        let (dirty, holes) = (BlockSet::default(), blocks(&[2]));
        let same = Region {
            range: 0..10_000,
            parent: &parent,
            dirty: &dirty,
            holes: &holes,
        };
        assert_eq!(
            walk(&same),
            [&kept[..], &[(3 * MAX + 1000, 1048, true)]].concat()
        );
    }

    #[test]
    fn clean_blocks_that_no_chunk_covers_are_holes() {
        let geometry = Geometry::new(GEOMETRY.0, GEOMETRY.1);
        let parent = chunks(&[2048, 2048, 2048]);
        let holes = clean_holes(geometry, &(0..5 * 4096), &parent, &blocks(&[3]));
        assert_eq!(holes, blocks(&[2, 4]));
    }
}
