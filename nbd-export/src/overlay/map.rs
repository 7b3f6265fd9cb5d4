//! Which blocks come from the overlay. A block that does never stops: what is given up reads as
//! zeros, here.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use super::layout::{BLOCK_LEN, PAGE_BLOCKS, PAGE_WORDS, SECTOR_BLOCKS, SECTOR_WORDS};
use super::sector::Words;

const WORD_BITS: u64 = u64::BITS as u64;

/// The map in memory: a bit for each block, in pages that are made when their first bit is set.
/// Reading takes no lock.
#[derive(Debug)]
pub(super) struct Map {
    pages: Box<[OnceLock<Box<Page>>]>,
    blocks: u64,
}

/// What a page is guarded with while its bits change.
#[derive(Debug, Default)]
pub(super) struct PageState {
    /// Whether the file has space for the page in the map of what was flushed.
    pub(super) is_reserved: bool,
}

/// A page of the map.
#[derive(Debug)]
pub(super) struct Page {
    words: [AtomicU64; PAGE_WORDS],
    pub(super) state: Mutex<PageState>,
}

/// Blocks within one sector of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SectorPart {
    /// Number of the sector.
    pub(super) sector: u64,
    /// Blocks, counted from the first of the sector.
    pub(super) blocks: Range<u64>,
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("a bounded number of pages and words")
}

/// Returns the bits `blocks` of the word that begins with bit `first`.
fn mask(blocks: &Range<u64>, first: u64) -> u64 {
    let from = blocks.start.saturating_sub(first).min(WORD_BITS);
    let to = blocks.end.saturating_sub(first).min(WORD_BITS);
    let below = |count: u64| match count {
        WORD_BITS => u64::MAX,
        count => (1 << count) - 1,
    };
    below(to) & !below(from)
}

impl SectorPart {
    /// Cuts a range of blocks at the bounds of sectors.
    pub(super) fn of(blocks: Range<u64>) -> impl Iterator<Item = Self> {
        let sectors = match blocks.is_empty() {
            true => 0..0,
            false => blocks.start / SECTOR_BLOCKS..blocks.end.div_ceil(SECTOR_BLOCKS),
        };
        sectors.map(move |sector| {
            let first = sector * SECTOR_BLOCKS;
            let from = blocks.start.max(first) - first;
            let to = blocks.end.min(first + SECTOR_BLOCKS) - first;
            Self {
                sector,
                blocks: from..to,
            }
        })
    }

    /// Adds the blocks to a sector's words; returns whether any is new.
    pub(super) fn add_to(&self, words: &mut Words) -> bool {
        let mut is_new = false;
        for (word, first) in words.iter_mut().zip((0..).step_by(64)) {
            let mask = mask(&self.blocks, first);
            is_new |= *word & mask != mask;
            *word |= mask;
        }
        is_new
    }
}

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            state: Mutex::default(),
        })
    }

    fn sector(&self, sector: usize) -> &[AtomicU64] {
        let first = sector * SECTOR_WORDS;
        &self.words[first..first + SECTOR_WORDS]
    }

    /// Returns a sector of the page, counted from the page's first.
    pub(super) fn load(&self, sector: usize) -> Words {
        let words = self.sector(sector);
        std::array::from_fn(|at| words[at].load(Ordering::Acquire))
    }

    /// Adds the blocks of `words`. The caller holds the page's state.
    pub(super) fn add(&self, sector: usize, words: &Words) {
        for (bits, word) in self.sector(sector).iter().zip(words) {
            bits.fetch_or(*word, Ordering::AcqRel);
        }
    }
}

impl Map {
    /// Returns the map of a disk of which nothing was written.
    pub(super) fn new(blocks: u64) -> Self {
        let pages = index(blocks.div_ceil(PAGE_BLOCKS));
        Self {
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            blocks,
        }
    }

    /// Returns a page, made if it is not there.
    pub(super) fn page(&self, page: u64) -> &Page {
        self.pages[index(page)].get_or_init(Page::new)
    }

    /// Returns whether a block comes from the overlay.
    pub(super) fn has(&self, block: u64) -> bool {
        self.run(block..block + 1).0
    }

    /// Returns whether the first of `blocks` comes from the overlay, and how far all do as it does.
    /// `blocks` must not be empty.
    pub(super) fn run(&self, blocks: Range<u64>) -> (bool, u64) {
        assert!(blocks.start < blocks.end && blocks.end <= self.blocks);
        let word_at = |block: u64| self.word(block);
        let first = word_at(blocks.start).unwrap_or(0);
        let is_here = first >> (blocks.start % PAGE_BLOCKS % WORD_BITS) & 1 == 1;
        let mut at = blocks.start;
        while at < blocks.end {
            let Some(word) = word_at(at) else {
                let page_end = (at / PAGE_BLOCKS + 1) * PAGE_BLOCKS;
                if is_here {
                    break;
                }
                at = page_end;
                continue;
            };
            let bit = at % PAGE_BLOCKS % WORD_BITS;
            let others = if is_here { !word } else { word } >> bit;
            let same = u64::from(others.trailing_zeros()).min(WORD_BITS - bit);
            at += same;
            if same < WORD_BITS - bit {
                break;
            }
        }
        // The first word may have changed since it was looked at: a run has one block at least.
        (is_here, at.clamp(blocks.start + 1, blocks.end))
    }

    /// Returns the word that holds a block's bit; `None` where no page is.
    fn word(&self, block: u64) -> Option<u64> {
        let page = self.pages[index(block / PAGE_BLOCKS)].get()?;
        let word = index(block % PAGE_BLOCKS / WORD_BITS);
        Some(page.words[word].load(Ordering::Acquire))
    }

    /// Returns which parts of a range of bytes are written, in whole blocks but within the range.
    pub(super) fn written(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut written = Vec::new();
        let mut at = range.start / BLOCK_LEN;
        let end = range.end.div_ceil(BLOCK_LEN);
        while range.start < range.end && at < end {
            let (is_here, stop) = self.run(at..end);
            if is_here {
                let from = (at * BLOCK_LEN).max(range.start);
                push(&mut written, from..(stop * BLOCK_LEN).min(range.end));
            }
            at = stop;
        }
        written
    }
}

/// Appends a range, joined with the last where they touch.
fn push(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(map: &Map, blocks: Range<u64>) {
        for part in SectorPart::of(blocks) {
            let (page, sector) = (part.sector / 8, index(part.sector % 8));
            let mut words = map.page(page).load(sector);
            part.add_to(&mut words);
            map.page(page).add(sector, &words);
        }
    }

    #[test]
    fn runs_are_those_of_a_plain_vector() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20 {
            let blocks = random.u64(1..3 * PAGE_BLOCKS);
            let map = Map::new(blocks);
            let mut model = vec![false; index(blocks)];
            for _ in 0..random.usize(0..40) {
                let start = random.u64(0..blocks);
                let len = [1, 64, SECTOR_BLOCKS, PAGE_BLOCKS][random.usize(0..4)];
                let end = (start + random.u64(1..=len)).min(blocks);
                set(&map, start..end);
                model[index(start)..index(end)].fill(true);
            }
            let mut at = 0;
            while at < blocks {
                let (is_here, end) = map.run(at..blocks);
                let same = model[index(at)..]
                    .iter()
                    .take_while(|bit| **bit == model[index(at)]);
                let expected = (model[index(at)], at + same.count() as u64);
                assert_eq!(
                    (is_here, end),
                    expected,
                    "seed {seed}, block {at} of {blocks}"
                );
                at = end;
            }
        }
    }

    #[test]
    fn what_is_written_is_told_in_blocks_within_the_range() {
        let map = Map::new(100);
        set(&map, 2..4);
        set(&map, 6..7);
        assert_eq!(map.written(0..409_600), [8192..16384, 24576..28672]);
        assert_eq!(map.written(9000..25000), [9000..16384, 24576..25000]);
        assert_eq!(map.written(16384..16384), []);
        assert_eq!(map.written(9000..9000), []);
    }
}
