//! How disks are cut: chunk lengths, and the grid of blocks and regions.

use std::ops::Range;

use crate::limits::{
    BLOCK_LEN, CHUNK_AVG_DEFAULT, CHUNK_AVG_MAX, CHUNK_AVG_MIN, CHUNK_LEN_MAX, REGION_LEN,
    WINDOW_LEN_MIN,
};

use super::BlockSet;

/// Returned when a repository's average chunk length is not one that it can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "average chunk size {average} is not a power of two from {CHUNK_AVG_MIN} to {CHUNK_AVG_MAX}"
)]
pub struct AverageRefused {
    /// The average asked for, in bytes.
    pub average: u32,
}

/// The chunker settings of a repository, fixed at `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkerSettings {
    average: u32,
}

impl ChunkerSettings {
    /// Returns the settings with an average chunk length in bytes.
    ///
    /// # Errors
    ///
    /// [`AverageRefused`] unless it is a power of two from 4 KiB to 1 MiB.
    pub fn new(average: u32) -> Result<Self, AverageRefused> {
        if average.is_power_of_two() && (CHUNK_AVG_MIN..=CHUNK_AVG_MAX).contains(&average) {
            Ok(Self { average })
        } else {
            Err(AverageRefused { average })
        }
    }

    /// Returns the average chunk length in bytes that FastCDC aims at.
    pub const fn average(self) -> u32 {
        self.average
    }

    /// Returns the lengths that FastCDC cuts by: a quarter, once and four times the average.
    pub const fn cut_params(self) -> CutParams {
        CutParams {
            min: self.average / 4,
            avg: self.average,
            max: self.average * 4,
        }
    }

    /// Returns the length of disk that one recipe leaf covers.
    pub fn window_len(self) -> u64 {
        WINDOW_LEN_MIN.max(u64::from(self.cut_params().max()))
    }
}

impl Default for ChunkerSettings {
    fn default() -> Self {
        Self {
            average: CHUNK_AVG_DEFAULT,
        }
    }
}

/// The three lengths of FastCDC, in bytes.
///
/// Those of a repository follow from its [`ChunkerSettings`]; smaller ones let tests meet in
/// kilobytes what takes megabytes at real sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutParams {
    min: u32,
    avg: u32,
    max: u32,
}

impl CutParams {
    /// Returns the lengths given.
    ///
    /// # Panics
    ///
    /// Unless 64 ≤ `min` ≤ `avg` ≤ `max` ≤ [`CHUNK_LEN_MAX`], all are even (FastCDC v2020 works
    /// in pairs of bytes) and `avg` is a power of two of at least 256.
    pub fn new(min: u32, avg: u32, max: u32) -> Self {
        assert!(
            64 <= min && min <= avg && avg <= max,
            "chunk lengths are out of order"
        );
        assert!(
            max <= CHUNK_LEN_MAX,
            "the largest chunk is longer than any may be"
        );
        assert!(
            avg.is_power_of_two() && avg >= 256,
            "the average is not a power of two"
        );
        assert!(
            min.is_multiple_of(2) && max.is_multiple_of(2),
            "chunk lengths are odd"
        );
        Self { min, avg, max }
    }

    /// Returns the least length of a chunk that is not the last of its segment.
    pub const fn min(self) -> u32 {
        self.min
    }

    /// Returns the length at which FastCDC changes from its strict mask to its lax one.
    pub const fn avg(self) -> u32 {
        self.avg
    }

    /// Returns the greatest length of a chunk.
    pub const fn max(self) -> u32 {
        self.max
    }
}

/// The grid of a disk: blocks, and the regions that no segment crosses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    block_len: u64,
    region_len: u64,
}

impl Geometry {
    /// The grid of every disk: blocks of 64 KiB, regions of 16 MiB.
    pub const DISK: Self = Self {
        block_len: BLOCK_LEN,
        region_len: REGION_LEN,
    };

    /// Returns a grid of other lengths, for tests: every disk has [`Geometry::DISK`].
    ///
    /// # Panics
    ///
    /// Unless a region is 1 to [`BlockSet::CAPACITY`] whole blocks and a block at least one byte.
    pub fn new(block_len: u64, region_len: u64) -> Self {
        assert!(
            block_len > 0 && region_len.is_multiple_of(block_len),
            "no whole blocks"
        );
        let blocks = region_len / block_len;
        assert!(
            (1..=BlockSet::CAPACITY as u64).contains(&blocks),
            "too many blocks, or none"
        );
        Self {
            block_len,
            region_len,
        }
    }

    /// Returns the length of a block in bytes.
    pub const fn block_len(self) -> u64 {
        self.block_len
    }

    /// Returns the length of a region in bytes.
    pub const fn region_len(self) -> u64 {
        self.region_len
    }

    /// Returns the region that holds a disk offset, as far as the disk goes; it is empty where the
    /// disk does not reach it.
    pub fn region_at(self, offset: u64, disk_len: u64) -> Range<u64> {
        let start = offset - offset % self.region_len;
        start..disk_len.clamp(start, start + self.region_len)
    }

    /// Returns the regions of a disk in order; the last may be short.
    pub fn regions(self, disk_len: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        (0..disk_len.div_ceil(self.region_len))
            .map(move |number| self.region_at(number * self.region_len, disk_len))
    }

    /// Returns the blocks, counted from the region's start, that disk bytes touch inside a region.
    pub fn blocks(self, region: &Range<u64>, bytes: Range<u64>) -> Range<usize> {
        let start = bytes.start.clamp(region.start, region.end) - region.start;
        let end = bytes.end.clamp(region.start, region.end) - region.start;
        if start >= end {
            return 0..0;
        }
        // A region has at most 256 blocks.
        (start / self.block_len) as usize..end.div_ceil(self.block_len) as usize
    }

    /// Returns the disk bytes of the blocks `blocks` of a region, as far as the region goes.
    pub fn bytes(self, region: &Range<u64>, blocks: Range<usize>) -> Range<u64> {
        let start = region.start + blocks.start as u64 * self.block_len;
        let end = region.start + blocks.end as u64 * self.block_len;
        start.min(region.end)..end.min(region.end)
    }

    /// Returns the disk bytes that are dirty for no other reason than that the parent's disk had
    /// another length: all from the block that holds the smaller length onward.
    ///
    /// Bytes past the parent's end count as changed from zeros. A disk that shrank to a whole
    /// number of blocks has none, and yet its last region differs: see [`Geometry::is_untouched`].
    pub fn resized(self, parent_len: u64, disk_len: u64) -> Range<u64> {
        if parent_len == disk_len {
            return disk_len..disk_len;
        }
        let smaller = parent_len.min(disk_len);
        smaller - smaller % self.block_len..disk_len
    }

    /// Returns whether a region can be taken over from the parent whole and unread: no block of
    /// it is dirty, and both disks go equally far into it.
    pub fn is_untouched(self, region: &Range<u64>, parent_len: u64, dirty: &BlockSet) -> bool {
        dirty.is_empty() && self.region_at(region.start, parent_len) == *region
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{KIB, MIB};

    #[test]
    fn averages_out_of_range_are_refused() {
        for average in [0, 1, 2048, 4095, 4097, 12 * 1024, 2 * 1024 * 1024, u32::MAX] {
            assert_eq!(
                ChunkerSettings::new(average),
                Err(AverageRefused { average })
            );
        }
        for average in [4 * 1024, 16 * 1024, 1024 * 1024] {
            let settings = ChunkerSettings::new(average).expect("a power of two in range");
            let params = settings.cut_params();
            assert_eq!(params, CutParams::new(average / 4, average, average * 4));
        }
    }

    #[test]
    fn a_window_holds_the_largest_chunk() {
        let window = |average| ChunkerSettings::new(average).map(ChunkerSettings::window_len);
        assert_eq!(window(16 * 1024), Ok(2 * MIB));
        assert_eq!(window(512 * 1024), Ok(2 * MIB));
        assert_eq!(window(1024 * 1024), Ok(4 * MIB));
    }

    #[test]
    fn regions_tile_a_disk() {
        let regions: Vec<_> = Geometry::DISK.regions(33 * MIB + 5).collect();
        assert_eq!(
            regions,
            [0..16 * MIB, 16 * MIB..32 * MIB, 32 * MIB..33 * MIB + 5]
        );
        assert_eq!(Geometry::DISK.regions(0).count(), 0);
        assert_eq!(Geometry::DISK.regions(16 * MIB).count(), 1);
    }

    #[test]
    fn bytes_are_rounded_out_to_blocks() {
        let region = 16 * MIB..17 * MIB + 5;
        let blocks = |start, end| Geometry::DISK.blocks(&region, start..end);
        assert_eq!(blocks(16 * MIB, 16 * MIB), 0..0);
        assert_eq!(blocks(16 * MIB, 16 * MIB + 1), 0..1);
        assert_eq!(
            blocks(16 * MIB + 64 * KIB - 1, 16 * MIB + 64 * KIB + 1),
            0..2
        );
        assert_eq!(blocks(0, 16 * MIB), 0..0);
        assert_eq!(blocks(0, u64::MAX), 0..17);
        assert_eq!(blocks(17 * MIB, 40 * MIB), 16..17);
        assert_eq!(blocks(20 * MIB, 40 * MIB), 0..0);
        assert_eq!(
            Geometry::DISK.bytes(&region, 16..17),
            17 * MIB..17 * MIB + 5
        );
    }

    #[test]
    fn all_from_the_smaller_length_on_is_dirty() {
        let block = 64 * KIB;
        assert_eq!(
            Geometry::DISK.resized(block + 7, block + 7),
            block + 7..block + 7
        );
        assert_eq!(
            Geometry::DISK.resized(block + 7, 9 * block),
            block..9 * block
        );
        assert_eq!(
            Geometry::DISK.resized(9 * block, block + 7),
            block..block + 7
        );
        assert_eq!(
            Geometry::DISK.resized(2 * block, 3 * block),
            2 * block..3 * block
        );
        assert_eq!(
            Geometry::DISK.resized(3 * block, 2 * block),
            2 * block..2 * block
        );
        let clean = BlockSet::default();
        assert!(Geometry::DISK.is_untouched(&(0..block), block, &clean));
        assert!(!Geometry::DISK.is_untouched(&(0..block), 2 * block, &clean));
        assert!(Geometry::DISK.is_untouched(&(0..16 * MIB), 17 * MIB, &clean));
    }
}
