//! Disks that change in the ways that hurt an incremental walk most.
//!
//! What a chunk's cut depends on past its end differs only where a cut meets a block border, a
//! segment's end or the disk's end. Random bytes hardly ever bring the two together, so cuts are
//! planted there: a cut's hash depends on the 64 bytes before it, and a copy of those is a cut
//! again wherever it is put.

use std::collections::VecDeque;
use std::ops::Range;

use cairn_engine::chunker::ChunkRef;
use fastrand::Rng;

use super::model::{Backup, Disk, Setting};

/// Bytes before a cut that are copied with it: all that its hash depends on.
const BEFORE_CUT: usize = 64;
/// Bytes of a planted cut.
const CUT_LEN: usize = BEFORE_CUT + 2;

/// Changes disks from one backup to the next.
pub struct Churn {
    random: Rng,
    block_len: usize,
    region_len: usize,
    max_len: usize,
    max_chunk: usize,
    cuts: VecDeque<[u8; CUT_LEN]>,
    older: VecDeque<Disk>,
}

impl Churn {
    pub fn new(random: Rng, setting: &Setting) -> Self {
        let region_len = setting.geometry.region_len() as usize;
        Self {
            random,
            block_len: setting.geometry.block_len() as usize,
            region_len,
            max_len: region_len * 5 / 2,
            max_chunk: setting.cutter.params().max() as usize,
            cuts: VecDeque::new(),
            older: VecDeque::new(),
        }
        .bounded()
    }

    /// Bounds the work of a chain, whatever its region length.
    fn bounded(mut self) -> Self {
        self.max_len = self.max_len.clamp(48 * 1024, 112 * 1024);
        self
    }

    pub fn first_disk(&mut self) -> Disk {
        let mut disk = vec![0; self.random.usize(1..self.max_len)];
        for _ in 0..self.random.usize(1..6) {
            let at = self.range(disk.len());
            self.fill(&mut disk, at);
        }
        disk
    }

    /// Returns a changed disk and what a bitmap would know was written: nothing of what lies
    /// past the end of the old disk or the new, and some blocks that did not change.
    pub fn next_disk(&mut self, disk: &Disk, backup: &Backup) -> (Disk, Vec<Range<u64>>) {
        let chunks: Vec<ChunkRef> = backup.regions.iter().flatten().copied().collect();
        self.harvest(disk, &chunks);
        let mut next = disk.clone();
        let mut written = Vec::new();
        if self.random.u8(..3) == 0 {
            self.resize(&mut next, &chunks);
        }
        for _ in 0..self.random.usize(..5) {
            let range = self.edit(&mut next, &chunks);
            written.push(range.start as u64..range.end.min(disk.len()) as u64);
        }
        self.older.push_front(disk.clone());
        self.older.truncate(3);
        written.retain(|range| range.start < range.end);
        (next, written)
    }

    /// Remembers a few of a disk's cuts that bytes made.
    fn harvest(&mut self, disk: &Disk, chunks: &[ChunkRef]) {
        for _ in 0..4.min(chunks.len()) {
            let chunk = chunks[self.random.usize(..chunks.len())];
            let (len, end) = (chunk.len as usize, chunk.end() as usize);
            if len > BEFORE_CUT && len < self.max_chunk && end + 2 <= disk.len() {
                let bytes = disk[end - BEFORE_CUT..end + 2].try_into();
                self.cuts.push_front(bytes.expect("64 bytes and two"));
            }
        }
        self.cuts.truncate(16);
    }

    /// Shrinks or grows a disk, often to where a chunk or a block ends, or a byte or two off it.
    fn resize(&mut self, disk: &mut Disk, chunks: &[ChunkRef]) {
        let near = self.random.usize(..4);
        let len = match self.random.u8(..5) {
            0 => self.brink(chunks).unwrap_or(disk.len()),
            4 => self.random.usize(1..self.max_len),
            1 => self.border() + near,
            2 => disk.len() + self.random.usize(1..4),
            _ => self.place(disk, chunks),
        };
        let (old, len) = (disk.len(), len.clamp(1, self.max_len));
        disk.resize(len, 0);
        if old < len && self.random.bool() {
            let start = self.random.usize(old..len);
            self.fill(disk, start..len);
        }
    }

    /// Changes some bytes; returns the range that was written.
    fn edit(&mut self, disk: &mut Disk, chunks: &[ChunkRef]) -> Range<usize> {
        let len = disk.len();
        let range = match self.random.u8(..16) {
            0..4 => return self.plant(disk),
            12 | 13 => match self.brink(chunks) {
                Some(border) => return self.beside(disk, border),
                None => self.blocks(len),
            },
            10 | 11 => {
                let at = self.place(disk, chunks);
                let range = at..len.min(at + self.random.usize(1..3));
                disk[range.clone()].fill_with(|| self.random.u8(..));
                return range;
            }
            4 => return self.shift(disk),
            5 => return self.revert(disk),
            6 => {
                let range = self.blocks(len);
                disk[range.clone()].fill(0);
                return range;
            }
            // Written, and yet the same.
            7 => return self.blocks(len),
            8 | 9 => self.blocks(len),
            _ => self.range(len),
        };
        self.fill(disk, range.clone());
        range
    }

    /// Puts a known cut on a block border or on the disk's end, or a byte or two off it.
    fn plant(&mut self, disk: &mut Disk) -> Range<usize> {
        if self.cuts.is_empty() {
            return 0..0;
        }
        let cut = self.cuts[self.random.usize(..self.cuts.len())];
        let border = match self.random.u8(..5) {
            0 => disk.len(),
            _ => self.border(),
        };
        let at = (border + self.random.usize(..5)).saturating_sub(BEFORE_CUT + 2);
        let end = disk.len().min(at + CUT_LEN);
        let at = at.min(end);
        disk[at..end].copy_from_slice(&cut[..end - at]);
        at..end
    }

    /// Makes a hole, data or other data of what lies just past a border.
    fn beside(&mut self, disk: &mut Disk, border: usize) -> Range<usize> {
        let start = border.min(disk.len());
        let range = start
            ..disk
                .len()
                .min(start + self.block_len * self.random.usize(1..3));
        match self.random.bool() {
            true => disk[range.clone()].fill(0),
            false => self.fill(disk, range.clone()),
        }
        range
    }

    /// Moves some bytes on by a few, and with them their cuts.
    fn shift(&mut self, disk: &mut Disk) -> Range<usize> {
        let range = self.range(disk.len());
        if !range.is_empty() {
            disk[range.clone()].rotate_right(self.random.usize(..range.len().min(300)));
        }
        range
    }

    /// Puts back the bytes of an earlier disk.
    fn revert(&mut self, disk: &mut Disk) -> Range<usize> {
        if self.older.is_empty() {
            return 0..0;
        }
        let older = &self.older[self.random.usize(..self.older.len())];
        let len = disk.len().min(older.len());
        let blocks = match self.random.bool() {
            true => 0..len,
            false => {
                let start = self.random.usize(..len) / self.block_len * self.block_len;
                start..len.min(start + self.block_len * self.random.usize(1..5))
            }
        };
        disk[blocks.clone()].copy_from_slice(&older[blocks.clone()]);
        blocks
    }

    /// Fills bytes with one of the contents that disks have.
    fn fill(&mut self, disk: &mut Disk, range: Range<usize>) {
        let (before, rest) = disk.split_at_mut(range.start);
        let bytes = &mut rest[..range.len()];
        match self.random.u8(..8) {
            0 => bytes.fill(0),
            1 => bytes.fill(self.random.u8(1..)),
            2 | 3 => {
                let longest = if self.random.bool() { 9 } else { 5000 };
                let mut tile = vec![0; self.random.usize(1..longest)];
                self.random.fill(&mut tile);
                bytes
                    .iter_mut()
                    .zip(tile.iter().cycle())
                    .for_each(|(to, from)| *to = *from);
            }
            4 if !before.is_empty() => {
                let from = self.random.usize(..before.len());
                let len = bytes.len().min(before.len() - from);
                bytes[..len].copy_from_slice(&before[from..from + len]);
            }
            5 => bytes.fill_with(|| self.random.u8(..3)),
            _ => self.random.fill(bytes),
        }
    }

    /// Returns any range of a disk, from one byte to all of it, short ones as often as long ones.
    fn range(&mut self, len: usize) -> Range<usize> {
        let start = self.random.usize(..len);
        let longest = 1 << self.random.u32(..=(len - start).ilog2());
        start..start + self.random.usize(1..=longest)
    }

    /// Returns one to four whole blocks, as far as a disk goes.
    fn blocks(&mut self, len: usize) -> Range<usize> {
        let start = self.random.usize(..len) / self.block_len * self.block_len;
        start..len.min(start + self.block_len * self.random.usize(1..5))
    }

    /// Returns the border of a block, now and then of a region.
    fn border(&mut self) -> usize {
        let len = if self.random.u8(..4) == 0 {
            self.region_len
        } else {
            self.block_len
        };
        self.random.usize(..=self.max_len / len) * len
    }

    /// Returns the border of a block that a cut inside a segment lies on, or a byte or two off.
    fn brink(&mut self, chunks: &[ChunkRef]) -> Option<usize> {
        let block_len = self.block_len as u64;
        let cuts = chunks
            .windows(2)
            .filter(|pair| pair[0].end() == pair[1].offset);
        let brinks = cuts
            .map(|pair| pair[1].offset + 2)
            .filter(|at| at % block_len <= 4);
        let brinks: Vec<u64> = brinks.map(|at| at - at % block_len).collect();
        let any = self.random.usize(..brinks.len().max(1));
        brinks.get(any).map(|&border| border as usize)
    }

    /// Returns a place on a disk at a chunk's end, or a byte or two off it.
    fn place(&mut self, disk: &Disk, chunks: &[ChunkRef]) -> usize {
        let near = self.random.usize(..5);
        let end = match chunks.is_empty() {
            true => self.random.usize(..disk.len()),
            false => chunks[self.random.usize(..chunks.len())].end() as usize,
        };
        (end + near).saturating_sub(2).min(disk.len() - 1)
    }
}
