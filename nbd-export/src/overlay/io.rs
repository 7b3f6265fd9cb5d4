//! Reading and writing through the overlay.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cairn_engine::extent::{Extent, ExtentStatus, push_extent};

use super::Overlay;
use super::layout::{Area, BLOCK_LEN, PAGE_LEN, PAGE_SECTORS, SECTOR_LEN};
use super::map::SectorPart;
use crate::disk::{Disk, DiskError, WriteDisk};

/// What is locked at once; a multiple of the block.
const REGION_LEN: u64 = 1 << 20;
/// Locks that the regions share, by their number.
const REGION_LOCKS: u64 = 128;
const ZEROS: [u8; BLOCK_LEN as usize] = [0; BLOCK_LEN as usize];

fn to_len(len: u64) -> usize {
    usize::try_from(len).expect("the length of something in memory")
}

/// Ends in disk order, the next of which ends what begins at `at`.
fn region_end(at: u64, end: u64) -> u64 {
    ((at / REGION_LEN + 1).saturating_mul(REGION_LEN)).min(end)
}

fn overlay_error(op: &'static str) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError::Overlay { op, source }
}

/// Makes the locks of all regions.
pub(super) fn regions() -> Box<[RwLock<()>]> {
    (0..REGION_LOCKS).map(|_| RwLock::new(())).collect()
}

impl Overlay {
    fn region(&self, at: u64) -> &RwLock<()> {
        &self.regions[to_len(at / REGION_LEN % REGION_LOCKS)]
    }

    fn lock_to_write(&self, at: u64) -> RwLockWriteGuard<'_, ()> {
        self.region(at)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_to_read(&self, at: u64) -> RwLockReadGuard<'_, ()> {
        self.region(at)
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn assert_within(&self, offset: u64, len: u64) -> u64 {
        let end = offset.checked_add(len).expect("ranges lie in the disk");
        assert!(end <= self.layout.size, "ranges lie in the disk");
        end
    }

    /// Returns whether the byte at `at` comes from the overlay, and how far all do as it does.
    fn run(&self, at: u64, end: u64) -> (bool, u64) {
        let blocks = at / BLOCK_LEN..end.div_ceil(BLOCK_LEN);
        let (is_here, stop) = self.map.run(blocks);
        (is_here, (stop * BLOCK_LEN).min(end))
    }

    fn has_block_of(&self, at: u64) -> bool {
        self.map.has(at / BLOCK_LEN)
    }

    /// Returns the snapshot's bytes of a part of one block, unless the block comes from the
    /// overlay. They never change, so that they are read before any lock is taken.
    fn beneath(&self, part: Range<u64>) -> Result<Vec<u8>, DiskError> {
        if part.is_empty() || self.has_block_of(part.start) {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; to_len(part.end - part.start)];
        self.base.read_at(part.start, &mut bytes)?;
        Ok(bytes)
    }

    /// Returns what completes the blocks at the edges of a write, before and after it.
    fn edges(&self, range: Range<u64>) -> Result<(Vec<u8>, Vec<u8>), DiskError> {
        let start = range.start - range.start % BLOCK_LEN;
        let stop = self.layout.block_end(range.end);
        let is_within = start < range.start && range.end < stop;
        if !is_within || stop - start > BLOCK_LEN {
            return Ok((
                self.beneath(start..range.start)?,
                self.beneath(range.end..stop)?,
            ));
        }
        // Asked once: what a question costs is finding, not copying.
        let mut before = self.beneath(start..stop)?;
        if before.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let after = before.split_off(to_len(range.end - start));
        before.truncate(to_len(range.start - start));
        Ok((before, after))
    }

    /// Writes within a region. A block that comes from the snapshot until now is completed with
    /// the snapshot's bytes.
    fn write_region(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let end = offset + data.len() as u64;
        let start = offset - offset % BLOCK_LEN;
        let (mut before, mut after) = self.edges(offset..end)?;

        let _guard = self.lock_to_write(offset);
        // Another write may have brought the block here since.
        if self.has_block_of(offset) {
            before.clear();
        }
        if self.has_block_of(end - 1) {
            after.clear();
        }
        let at = self.layout.data_at + offset - before.len() as u64;
        self.medium
            .write_at(at, [&before, data, &after])
            .map_err(overlay_error("write to"))?;
        self.enter(start / BLOCK_LEN..end.div_ceil(BLOCK_LEN))
            .map_err(overlay_error("write to"))
    }

    /// Zeros within a region.
    fn zero_region(&self, range: Range<u64>, keep_allocated: bool) -> Result<(), DiskError> {
        let whole = self.whole_blocks(&range);
        let edges = match whole.is_empty() {
            true => [range, 0..0],
            false => [range.start..whole.start, whole.end..range.end],
        };
        for edge in edges {
            let mut at = edge.start;
            while at < edge.end {
                let stop = (at / BLOCK_LEN * BLOCK_LEN + BLOCK_LEN).min(edge.end);
                self.write_region(at, &ZEROS[..to_len(stop - at)])?;
                at = stop;
            }
        }
        if whole.is_empty() {
            return Ok(());
        }
        let _guard = self.lock_to_write(whole.start);
        let data_at = self.layout.data_at;
        self.medium
            .zero(data_at + whole.start..data_at + whole.end, keep_allocated)
            .and_then(|()| self.enter(whole.start / BLOCK_LEN..whole.end.div_ceil(BLOCK_LEN)))
            .map_err(overlay_error("write zeros to"))
    }

    /// Returns the blocks that lie wholly within a range; the disk's last counts as whole.
    fn whole_blocks(&self, range: &Range<u64>) -> Range<u64> {
        let start = range.start.next_multiple_of(BLOCK_LEN);
        let end = match range.end == self.layout.size {
            true => range.end,
            false => range.end - range.end % BLOCK_LEN,
        };
        start..end.max(start)
    }

    /// Enters blocks into the map, whose data are with the kernel: first in the file, so that a
    /// killed process has lost nothing that was seen, then in memory. The caller holds the region.
    fn enter(&self, blocks: Range<u64>) -> io::Result<()> {
        for part in SectorPart::of(blocks) {
            let number = part.sector / PAGE_SECTORS as u64;
            let sector = to_len(part.sector % PAGE_SECTORS as u64);
            let page = self.map.page(number);
            if !part.add_to(&mut page.load(sector)) {
                continue;
            }
            let mut state = page.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut words = page.load(sector);
            part.add_to(&mut words);
            if let Some(codec) = &self.codec {
                if !state.is_reserved {
                    // Else it would be the flush that finds no space.
                    let at = self.layout.page_at(Area::Flushed, number);
                    self.medium.reserve(at..at + PAGE_LEN as u64)?;
                    state.is_reserved = true;
                }
                let at = self.layout.page_at(Area::Written, number);
                let at = at + (sector * SECTOR_LEN) as u64;
                let bytes = codec.encode(Area::Written, part.sector, &words);
                self.medium.write_at(at, [&bytes, &[], &[]])?;
            }
            page.add(sector, &words);
            // After the bits: a flush that takes the page from the set finds them.
            self.lock_unflushed().insert(number);
        }
        Ok(())
    }

    /// Applies `write` to the parts of a range that lie in one region each.
    fn each_region(
        &self,
        op: &'static str,
        range: Range<u64>,
        mut write: impl FnMut(Range<u64>) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        self.check_failed(op)?;
        let mut at = range.start;
        let mut done = Ok(());
        while at < range.end && done.is_ok() {
            let stop = region_end(at, range.end);
            done = write(at..stop);
            at = stop;
        }
        // A write that failed may have changed something too.
        self.writes.fetch_add(1, Ordering::AcqRel);
        done.and_then(|()| self.check_failed(op))
    }

    /// Appends which parts of a range in the overlay are holes.
    fn push_own_extents(&self, range: Range<u64>, extents: &mut Vec<Extent>) -> io::Result<()> {
        let data_at = self.layout.data_at;
        let mut at = range.start;
        while at < range.end {
            let data = self.medium.next_data(data_at + at..data_at + range.end)?;
            let data = data.map_or(range.end..range.end, |data| {
                data.start - data_at..data.end - data_at
            });
            push_extent(extents, at, data.start - at, ExtentStatus::Zero);
            push_extent(
                extents,
                data.start,
                data.end - data.start,
                ExtentStatus::Data,
            );
            at = data.end;
        }
        Ok(())
    }
}

/// Appends the parts of `below` that lie within `range`.
fn push_clipped(below: &[Extent], range: Range<u64>, extents: &mut Vec<Extent>) {
    let first = below.partition_point(|extent| extent.range().end <= range.start);
    for extent in below[first..]
        .iter()
        .take_while(|extent| extent.offset < range.end)
    {
        let start = extent.offset.max(range.start);
        let end = extent.range().end.min(range.end);
        push_extent(extents, start, end - start, extent.status);
    }
}

impl Disk for Overlay {
    fn size(&self) -> u64 {
        self.layout.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let end = self.assert_within(offset, buf.len() as u64);
        let (mut at, mut rest) = (offset, buf);
        let mut has_own = false;
        while at < end {
            let (is_here, mut stop) = self.run(at, end);
            if is_here {
                stop = region_end(at, stop);
            }
            let (part, later) = rest.split_at_mut(to_len(stop - at));
            if is_here {
                self.check_failed("read")?;
                let _guard = self.lock_to_read(at);
                self.medium
                    .read_at(self.layout.data_at + at, part)
                    .map_err(overlay_error("read"))?;
            } else {
                self.base.read_at(at, part)?;
            }
            (at, rest) = (stop, later);
            has_own |= is_here;
        }
        self.check_failed_if(has_own)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        let end = self.assert_within(offset, buf.len() as u64);
        let (mut at, mut rest) = (offset, buf);
        let mut has_own = false;
        while at < end {
            let (is_here, mut stop) = self.run(at, end);
            if is_here {
                stop = region_end(at, stop);
            }
            let (part, later) = rest.split_at_mut(to_len(stop - at));
            let done = match is_here {
                true if self.check_failed("read").is_err() => false,
                true => self
                    .region(at)
                    .try_read()
                    .is_ok_and(|_guard| self.medium.read_cached_at(self.layout.data_at + at, part)),
                false => self.base.try_read_at(at, part),
            };
            if !done {
                return false;
            }
            (at, rest) = (stop, later);
            has_own |= is_here;
        }
        self.check_failed_if(has_own).is_ok()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, DiskError> {
        self.assert_within(range.start, range.end.saturating_sub(range.start));
        let mut below = None;
        let mut extents = Vec::new();
        let mut has_own = false;
        let mut at = range.start;
        while at < range.end {
            let (is_here, stop) = self.run(at, range.end);
            has_own |= is_here;
            if is_here {
                // A page that the system lost looks like a hole, which would be told as zeros.
                self.check_failed("read")?;
                self.push_own_extents(at..stop, &mut extents)
                    .map_err(overlay_error("read"))?;
            } else {
                // Asked once: each question costs a walk of the recipe.
                let below = match &mut below {
                    Some(below) => below,
                    none => none.insert(self.base.extents(at..range.end)?),
                };
                push_clipped(below, at..stop, &mut extents);
            }
            at = stop;
        }
        self.check_failed_if(has_own)?;
        Ok(extents)
    }

    fn prefetch(&self, range: Range<u64>) {
        self.assert_within(range.start, range.end.saturating_sub(range.start));
        let mut at = range.start;
        while at < range.end {
            let (is_here, stop) = self.run(at, range.end);
            if !is_here {
                self.base.prefetch(at..stop);
            }
            at = stop;
        }
    }

    fn writer(&self) -> Option<&dyn WriteDisk> {
        Some(self)
    }
}

impl WriteDisk for Overlay {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let end = self.assert_within(offset, data.len() as u64);
        self.each_region("write to", offset..end, |part| {
            let data = &data[to_len(part.start - offset)..to_len(part.end - offset)];
            self.write_region(part.start, data)
        })
    }

    fn write_zeroes(&self, range: Range<u64>, keep_allocated: bool) -> Result<(), DiskError> {
        self.assert_within(range.start, range.end.saturating_sub(range.start));
        self.each_region("write zeros to", range, |part| {
            self.zero_region(part, keep_allocated)
        })
    }

    fn trim(&self, range: Range<u64>) -> Result<(), DiskError> {
        self.write_zeroes(range, false)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.flush_all()
    }

    fn written(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, DiskError> {
        self.assert_within(range.start, range.end.saturating_sub(range.start));
        Ok(self.map.written(range))
    }
}
