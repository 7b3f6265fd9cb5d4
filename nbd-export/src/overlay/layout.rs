//! Where things stand in an overlay's file: `docs/overlay.md`.

use std::ops::Range;

/// Unit of the map: a block comes from the overlay or from the snapshot, as a whole. Guests write
/// pages and file system blocks of this length, so that hardly ever one has to be completed from
/// the snapshot; 64 KiB would write sixteen times what a guest writes at random.
pub(super) const BLOCK_LEN: u64 = 4096;
/// What the medium writes whole or not at all.
pub(super) const SECTOR_LEN: usize = 512;
/// Words of the map in one of its sectors; the rest is its check.
pub(super) const SECTOR_WORDS: usize = 62;
/// Blocks in one sector of the map.
pub(super) const SECTOR_BLOCKS: u64 = SECTOR_WORDS as u64 * 64;
/// Sectors in a page of the map.
pub(super) const PAGE_SECTORS: usize = 8;
/// Bytes of a page of the map, which is written at once.
pub(super) const PAGE_LEN: usize = SECTOR_LEN * PAGE_SECTORS;
/// Words in a page of the map.
pub(super) const PAGE_WORDS: usize = SECTOR_WORDS * PAGE_SECTORS;
/// Blocks in one page of the map.
pub(super) const PAGE_BLOCKS: u64 = SECTOR_BLOCKS * PAGE_SECTORS as u64;

/// Where the state stands; the header is at 0. Both take a page.
pub(super) const STATE_AT: u64 = PAGE_LEN as u64;
const MAPS_AT: u64 = 2 * PAGE_LEN as u64;
/// The data begin at a multiple of this, so that blocks of any file system can be freed.
const DATA_ALIGN: u64 = 1 << 20;
/// Files end here, as the system counts.
const FILE_LEN_MAX: u64 = i64::MAX as u64;

/// The two maps of an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Area {
    /// What was written; its data are with the kernel.
    Written,
    /// What was flushed; its data are on the medium.
    Flushed,
}

/// Where the parts of an overlay over a disk of some size stand in its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// The disk's size in bytes.
    pub(super) size: u64,
    /// Pages of each map.
    pub(super) pages: u64,
    /// Where the disk's first byte stands.
    pub(super) data_at: u64,
}

impl Layout {
    /// Lays out an overlay over `size` bytes; `None` if no file is that long.
    pub(super) fn of(size: u64) -> Option<Self> {
        let pages = size.div_ceil(BLOCK_LEN).div_ceil(PAGE_BLOCKS);
        let maps_len = pages.checked_mul(2 * PAGE_LEN as u64)?;
        let maps_end = MAPS_AT.checked_add(maps_len)?;
        let data_at = maps_end.checked_next_multiple_of(DATA_ALIGN)?;
        let layout = Self {
            size,
            pages,
            data_at,
        };
        (data_at.checked_add(size)? <= FILE_LEN_MAX).then_some(layout)
    }

    /// Returns the layout without header and maps, for a file that nobody opens again.
    pub(super) fn bare(size: u64) -> Option<Self> {
        let layout = Self::of(size)?;
        Some(Self {
            data_at: 0,
            ..layout
        })
    }

    /// Returns the number of blocks of the disk; the last may be shorter.
    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_LEN)
    }

    /// Returns the length of the file in bytes.
    pub(super) fn file_len(&self) -> u64 {
        self.data_at + self.size
    }

    /// Returns where a map stands.
    pub(super) fn area(&self, area: Area) -> Range<u64> {
        let len = self.pages * PAGE_LEN as u64;
        let start = match area {
            Area::Written => MAPS_AT,
            Area::Flushed => MAPS_AT + len,
        };
        start..start + len
    }

    /// Returns where a page of a map stands.
    pub(super) fn page_at(&self, area: Area, page: u64) -> u64 {
        debug_assert!(page < self.pages);
        self.area(area).start + page * PAGE_LEN as u64
    }

    /// Returns where the block that holds the byte before `offset` ends.
    pub(super) fn block_end(&self, offset: u64) -> u64 {
        offset.next_multiple_of(BLOCK_LEN).min(self.size)
    }
}
