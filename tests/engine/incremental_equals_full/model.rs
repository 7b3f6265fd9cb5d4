//! What a full and an incremental backup of a disk must come to, from the bytes alone.

use std::ops::Range;

use cairn_engine::chunker::{
    BlockSet, ChunkRef, Cutter, Geometry, LOOK_AHEAD, Piece, Region, RegionBuffer, RegionBytes,
    clean_holes, is_zero, walk_region,
};
use cairn_engine::id::ChunkId;

/// A disk's bytes.
pub type Disk = Vec<u8>;

/// How a chain's disks are cut.
#[derive(Debug)]
pub struct Setting {
    /// Blocks and regions.
    pub geometry: Geometry,
    /// Chunk lengths and gear table.
    pub cutter: Cutter,
}

/// The chunks of a disk, region by region.
#[derive(Debug, PartialEq)]
pub struct Backup {
    pub regions: Vec<Vec<ChunkRef>>,
}

impl Backup {
    /// Cuts every segment of a disk from its start, and knows nothing of walks.
    pub fn full(setting: &Setting, disk: &Disk) -> Self {
        let (disk_len, region_len) = (disk.len() as u64, setting.geometry.region_len());
        let starts = (0..disk_len).step_by(region_len as usize);
        let regions = starts.map(|start| {
            let region = start..disk_len.min(start + region_len);
            let segments = segments(setting.geometry, disk, region);
            let cut = |segment| cut_segment(&setting.cutter, disk, segment);
            segments.into_iter().flat_map(cut).collect()
        });
        Self {
            regions: regions.collect(),
        }
    }

    /// The chunks that start in the region with this number.
    pub fn region(&self, number: usize) -> &[ChunkRef] {
        self.regions.get(number).map_or(&[], Vec::as_slice)
    }
}

/// The maximal runs of blocks that are not all zeros, as byte ranges.
fn segments(geometry: Geometry, disk: &Disk, region: Range<u64>) -> Vec<Range<u64>> {
    let mut segments = Vec::new();
    let mut at = region.start;
    while at < region.end {
        let end = region.end.min(at + geometry.block_len());
        if disk[at as usize..end as usize]
            .iter()
            .any(|&byte| byte != 0)
        {
            join(&mut segments, at..end);
        }
        at = end;
    }
    segments
}

fn cut_segment(cutter: &Cutter, disk: &Disk, segment: Range<u64>) -> Vec<ChunkRef> {
    let mut chunks = Vec::new();
    let mut rest = &disk[segment.start as usize..segment.end as usize];
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(cutter.cut(rest));
        let offset = segment.end - rest.len() as u64;
        chunks.push(ChunkRef {
            offset,
            len: chunk.len() as u32,
            id: identity(chunk),
        });
        rest = after;
    }
    chunks
}

/// Stands in for BLAKE3, which would take most of the test's time: chunks with different bytes
/// differ in it as surely as two hashes of 64 bits can make it.
fn identity(bytes: &[u8]) -> ChunkId {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut tail = [0; 8];
    tail[..rest.len()].copy_from_slice(rest);
    let (mut one, mut two) = (bytes.len() as u64, !(bytes.len() as u64));
    for word in words.iter().chain([&tail]) {
        let word = u64::from_le_bytes(*word);
        one = (one ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
        two = (two.rotate_left(31) ^ word).wrapping_mul(0xd1b5_4a32_d192_ed03);
    }
    let mut id = [0; 32];
    id[..8].copy_from_slice(&one.to_le_bytes());
    id[8..16].copy_from_slice(&two.to_le_bytes());
    ChunkId::from_bytes(id)
}

/// Serves a region's bytes and remembers what was asked for.
struct Probe<'a> {
    bytes: RegionBuffer<'a>,
    asked: Vec<Range<u64>>,
}

impl RegionBytes<String> for Probe<'_> {
    fn bytes(&mut self, range: Range<u64>) -> Result<&[u8], String> {
        join(&mut self.asked, range.clone());
        self.bytes.bytes(range)
    }
}

/// One region of a backup.
struct Step<'a> {
    setting: &'a Setting,
    range: Range<u64>,
    parent: &'a [ChunkRef],
    dirty: BlockSet,
    disk: &'a Disk,
}

/// What the rule for taking a chunk over speaks of.
struct Rule<'a> {
    step: &'a Step<'a>,
    new_segments: Vec<Range<u64>>,
    old_segments: Vec<Range<u64>>,
}

impl Setting {
    /// Makes an incremental backup and checks all that can be said of it.
    pub fn check_incremental(
        &self,
        parent_disk: &Disk,
        parent: &Backup,
        disk: &Disk,
        written: &[Range<u64>],
    ) -> Result<Backup, String> {
        let full = Backup::full(self, disk);
        let (incremental, _) = self.incremental(parent_disk.len() as u64, parent, disk, written);
        let incremental = incremental?;
        if let Some(difference) = difference(&incremental, &full) {
            return Err(format!(
                "the incremental differs from the full: {difference}"
            ));
        }
        if let Some(difference) = difference(&self.full_walk(disk)?, &full) {
            return Err(format!(
                "the full walk differs from a plain cut: {difference}"
            ));
        }
        Ok(incremental)
    }

    /// Walks every region of a disk without a parent.
    fn full_walk(&self, disk: &Disk) -> Result<Backup, String> {
        let regions = self.geometry.regions(disk.len() as u64).map(|range| {
            let all = BlockSet::all(self.geometry, &range);
            let step = Step {
                setting: self,
                range,
                parent: &[],
                dirty: all,
                disk,
            };
            Ok(step.walk()?.0)
        });
        Ok(Backup {
            regions: regions.collect::<Result<_, String>>()?,
        })
    }

    /// Backs up as the product does: what the bitmap and the lengths leave untouched is not even
    /// looked at. Also returns how many clean bytes were asked for.
    pub fn incremental(
        &self,
        parent_len: u64,
        parent: &Backup,
        disk: &Disk,
        written: &[Range<u64>],
    ) -> (Result<Backup, String>, u64) {
        let disk_len = disk.len() as u64;
        let mut clean_bytes = 0;
        let regions = self
            .geometry
            .regions(disk_len)
            .enumerate()
            .map(|(number, range)| {
                let mut dirty = BlockSet::default();
                let resized = self.geometry.resized(parent_len, disk_len);
                for bytes in written.iter().chain([&resized]) {
                    dirty.insert_bytes(self.geometry, &range, bytes.clone());
                }
                let parent = parent.region(number);
                if self.geometry.is_untouched(&range, parent_len, &dirty) {
                    return Ok(parent.to_vec());
                }
                let (chunks, asked) = Step {
                    setting: self,
                    range,
                    parent,
                    dirty,
                    disk,
                }
                .walk()?;
                clean_bytes += asked;
                Ok(chunks)
            });
        let regions: Result<_, String> = regions.collect();
        (regions.map(|regions| Backup { regions }), clean_bytes)
    }
}

impl Step<'_> {
    /// Walks the region; returns its chunks, and how many clean bytes were asked for.
    fn walk(&self) -> Result<(Vec<ChunkRef>, u64), String> {
        let Setting { geometry, cutter } = self.setting;
        let buffer = &self.disk[self.range.start as usize..self.range.end as usize];
        let mut holes = clean_holes(*geometry, &self.range, self.parent, &self.dirty);
        for (number, block) in buffer.chunks(geometry.block_len() as usize).enumerate() {
            if self.dirty.contains(number) && is_zero(block) {
                holes.insert(number);
            }
        }
        let region = Region {
            range: self.range.clone(),
            parent: self.parent,
            dirty: &self.dirty,
            holes: &holes,
        };
        let rule = Rule::new(self);
        let bytes = RegionBuffer::new(self.range.start, buffer);
        let mut probe = Probe {
            bytes,
            asked: Vec::new(),
        };
        let mut chunks = Vec::new();
        let mut cut = Vec::new();
        walk_region(cutter, *geometry, &region, &mut probe, |piece| {
            let (chunk, kept) = match piece {
                Piece::Kept(chunk) => (chunk, true),
                Piece::Cut { offset, bytes } => {
                    let id = identity(bytes);
                    (
                        ChunkRef {
                            offset,
                            len: bytes.len() as u32,
                            id,
                        },
                        false,
                    )
                }
            };
            chunks.push(chunk);
            if !kept {
                join(&mut cut, chunk.offset..chunk.end() + LOOK_AHEAD);
            }
            match rule.keeps(chunk.offset) == kept {
                true => Ok(()),
                false => Err(format!(
                    "kept is {kept} against the rule at {}",
                    chunk.offset
                )),
            }
        })?;
        let clean_bytes = self.clean_bytes_asked(&probe.asked, &cut)?;
        Ok((chunks, clean_bytes))
    }

    fn touches_dirty(&self, bytes: Range<u64>) -> bool {
        self.by_block(bytes).any(|(_, dirty)| dirty)
    }

    /// Splits bytes at block borders, and says of each part whether its block is dirty.
    fn by_block(&self, bytes: Range<u64>) -> impl Iterator<Item = (Range<u64>, bool)> {
        let (start, len) = (self.range.start, self.setting.geometry.block_len());
        let mut at = bytes.start;
        std::iter::from_fn(move || {
            let block = (at - start) / len;
            let part = at..bytes.end.min(start + (block + 1) * len);
            at = part.end;
            (part.start < part.end).then(|| (part, self.dirty.contains(block as usize)))
        })
    }

    /// Counts the clean bytes asked for; each must be in a chunk cut anew, or be looked ahead at.
    fn clean_bytes_asked(&self, asked: &[Range<u64>], cut: &[Range<u64>]) -> Result<u64, String> {
        let mut clean = 0;
        let parts = asked.iter().flat_map(|range| self.by_block(range.clone()));
        for (part, _) in parts.filter(|(_, dirty)| !dirty) {
            if !cut
                .iter()
                .any(|cut| cut.start <= part.start && part.end <= cut.end)
            {
                return Err(format!("not all of {part:?} is needed; {cut:?} is"));
            }
            clean += part.end - part.start;
        }
        Ok(clean)
    }
}

impl<'a> Rule<'a> {
    fn new(step: &'a Step<'a>) -> Self {
        let mut old_segments = Vec::new();
        step.parent
            .iter()
            .for_each(|chunk| join(&mut old_segments, chunk.offset..chunk.end()));
        let new_segments = segments(step.setting.geometry, step.disk, step.range.clone());
        Self {
            step,
            new_segments,
            old_segments,
        }
    }

    /// Says whether a chunk of the parent at `offset`, where the new disk has a cut, is taken over.
    fn keeps(&self, offset: u64) -> bool {
        let parent = self.step.parent;
        let Ok(at) = parent.binary_search_by_key(&offset, |chunk| chunk.offset) else {
            return false;
        };
        let end = parent[at].end();
        let end_in = |segments: &[Range<u64>]| {
            segments
                .iter()
                .find(|segment| segment.contains(&offset))
                .map(|segment| segment.end)
        };
        let (Some(new), Some(old)) = (end_in(&self.new_segments), end_in(&self.old_segments))
        else {
            return false;
        };
        let ends_near = |segment_end| segment_end == end || segment_end == end + 1;
        end <= new
            && !self.step.touches_dirty(offset..new.min(end + 2))
            && (parent[at].len == self.step.setting.cutter.params().max()
                || !(ends_near(new) || ends_near(old))
                || new == old)
    }
}

/// Appends a range to a list in order, joining it to the last one where they touch.
fn join(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut().filter(|last| range.start <= last.end) {
        Some(last) => last.end = last.end.max(range.end),
        None => ranges.push(range),
    }
}

/// Names the first region whose chunks differ, and where.
fn difference(found: &Backup, expected: &Backup) -> Option<String> {
    if found == expected {
        return None;
    }
    let mut pairs = found
        .regions
        .iter()
        .flatten()
        .zip(expected.regions.iter().flatten());
    Some(match pairs.find(|(found, expected)| found != expected) {
        Some((found, expected)) => format!("{found:?} instead of {expected:?}"),
        None => "one has more chunks or regions".to_owned(),
    })
}
