//! A block device: bytes at their disk offsets, holes zeroed, what lies beyond the disk untouched.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open};
use rustix::io::Errno;

use super::in_use::InUse;
use super::output::Output;
use super::pages::{PAGE_LEN, PartialPages, whole_pages};
use super::{Abandoned, Finished, Target, TargetError, TargetOptions, check_region};
use crate::limits::{GIB, MIB, REGION_LEN};

/// Most bytes zeroed by one call, which nothing can interrupt.
const ZERO_LEN_MAX: u64 = GIB;

/// Ways to have the device zero a range, best first: unmapping it, or zeroing it without data.
/// Both are defined to leave zeros on a block device, or to fail.
const ZERO_MODES: [FallocateFlags; 2] = [
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
    FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
];

/// A device that nobody else uses meanwhile.
pub(super) struct Claimed {
    pub(super) output: Output,
    /// Keeps every QEMU away until the device is whole or given up.
    _in_use: Option<InUse>,
    pub(super) size: u64,
}

impl Claimed {
    /// Opens a device whose content may be lost.
    pub(super) fn open(path: &Path, overwrite: bool) -> Result<Self, TargetError> {
        if !overwrite {
            return Err(TargetError::WouldOverwriteDevice {
                path: path.to_owned(),
            });
        }
        // On a block device, O_EXCL fails while it is mounted or claimed, and claims it.
        let flags = OFlags::WRONLY | OFlags::EXCL | OFlags::CLOEXEC;
        let device = open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::BUSY => TargetError::DeviceInUse {
                path: path.to_owned(),
            },
            _ => TargetError::io("open", path, errno),
        })?;
        let in_use = InUse::lock(path)?;
        let mut device = File::from(device);
        let size = device
            .seek(SeekFrom::End(0))
            .map_err(|source| TargetError::io("find the size of", path, source))?;
        Ok(Self {
            output: Output::new(device, path.to_owned()),
            _in_use: in_use,
            size,
        })
    }
}

pub(super) struct DeviceTarget {
    claimed: Claimed,
    size: u64,
    device_size: u64,
    pages: PartialPages,
    /// Starts of the regions that were begun; the others are holes.
    begun: Mutex<BTreeSet<u64>>,
    /// The first of `ZERO_MODES` that the device has not refused.
    zero_mode: AtomicUsize,
}

impl DeviceTarget {
    pub(super) fn open(path: &Path, options: &TargetOptions) -> Result<Self, TargetError> {
        let claimed = Claimed::open(path, options.overwrite)?;
        let device_size = claimed.size;
        if device_size < options.size {
            return Err(TargetError::DeviceTooSmall {
                path: path.to_owned(),
                device_size,
                disk_size: options.size,
            });
        }
        Ok(Self {
            claimed,
            size: options.size,
            device_size,
            pages: PartialPages::new(options.size),
            begun: Mutex::default(),
            zero_mode: AtomicUsize::new(0),
        })
    }

    /// Zeroes disk bytes. Parts of pages go the way of data, as data may follow in the page.
    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        let pages = whole_pages(&range);
        if pages.is_empty() {
            return self.write_zeros(range);
        }
        self.write_zeros(range.start..pages.start)?;
        let mut at = pages.start;
        while at < pages.end {
            let end = (at + ZERO_LEN_MAX).min(pages.end);
            self.zero_pages(at..end)?;
            at = end;
        }
        self.write_zeros(pages.end..range.end)
    }

    fn zero_pages(&self, range: Range<u64>) -> Result<(), TargetError> {
        let (device, len) = (self.claimed.output.file(), range.end - range.start);
        let first = self.zero_mode.load(Ordering::Relaxed);
        for (number, mode) in ZERO_MODES.iter().enumerate().skip(first) {
            match fallocate(device, *mode, range.start, len) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV | Errno::NOSYS) => {
                    self.zero_mode.fetch_max(number + 1, Ordering::Relaxed);
                }
                Err(errno) => {
                    return Err(TargetError::write(
                        self.claimed.output.path(),
                        range.start,
                        errno.into(),
                    ));
                }
            }
        }
        self.write_zeros(range)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<(), TargetError> {
        static ZEROS: [u8; MIB as usize] = [0; MIB as usize];
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from((range.end - at).min(MIB)).expect("at most 1 MiB");
            self.write_at(at, &ZEROS[..len])?;
            at += len as u64;
        }
        Ok(())
    }

    /// Zeroes the regions that were never begun.
    fn zero_the_rest(&self) -> Result<(), TargetError> {
        let begun = std::mem::take(&mut *self.begun.lock().expect("no holder panics"));
        let mut at = 0;
        for start in begun {
            self.zero(at..start)?;
            at = start + REGION_LEN;
        }
        if at < self.size {
            self.zero(at..self.size)?;
        }
        Ok(())
    }
}

impl Target for DeviceTarget {
    fn begin_region(&self, start: u64, data: &[Range<u64>]) -> Result<(), TargetError> {
        check_region(self.size, start, data);
        let new = self.begun.lock().expect("no holder panics").insert(start);
        assert!(new, "the region at {start} was begun before");
        let mut at = start;
        for range in data {
            self.zero(at..range.start)?;
            at = range.end;
        }
        self.zero(at..(start + REGION_LEN).min(self.size))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let end = offset + bytes.len() as u64;
        assert!(end <= self.size, "outside the disk");
        let pages = whole_pages(&(offset..end));
        // Where no page is whole, the piece may still touch two.
        let head_end = pages.start.min(end);
        let tail_start = pages.end.max(head_end);
        let part = |range: Range<u64>| {
            let at = |place: u64| usize::try_from(place - offset).expect("within the slice");
            &bytes[at(range.start)..at(range.end)]
        };
        for edge in [offset..head_end, tail_start..end] {
            if !edge.is_empty()
                && let Some((start, page)) = self.pages.add(edge.start, part(edge))
            {
                self.claimed.output.write_at(start, &page)?;
            }
        }
        if pages.is_empty() {
            return Ok(());
        }
        self.claimed
            .output
            .write_at(pages.start, part(pages.clone()))
    }

    fn end_region(&self, start: u64) {
        let end = (start + REGION_LEN).min(self.size);
        self.claimed.output.start_writeback(start..end);
    }

    fn finish(self: Box<Self>) -> Result<Finished, TargetError> {
        self.zero_the_rest()?;
        assert!(
            self.pages.is_empty(),
            "every byte of a region's data is written"
        );
        self.claimed.output.sync()?;
        Ok(Finished {
            path: self.claimed.output.path().to_owned(),
            size: self.device_size,
        })
    }

    fn abandon(self: Box<Self>) -> Abandoned {
        Abandoned::IncompleteDevice(self.claimed.output.path().to_owned())
    }
}

// Pages that are written whole never share a page with a range that the device zeroes.
const _: () = assert!(REGION_LEN.is_multiple_of(PAGE_LEN));

#[cfg(test)]
mod tests {
    use super::*;

    /// A regular file stands in for a device that can zero nothing by itself.
    #[test]
    fn without_the_devices_help_zeros_are_written() -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        let len = 3 * MIB + 100;
        std::io::Write::write_all(&mut file, &vec![0xee; 3 * MIB as usize + 200])?;
        let options = TargetOptions {
            format: super::super::TargetFormat::Raw,
            size: len,
            overwrite: true,
        };
        let target = DeviceTarget::open(file.path(), &options).expect("it is large enough");
        target.zero_mode.store(ZERO_MODES.len(), Ordering::Relaxed);
        let data = 65_536..131_072;
        target
            .begin_region(0, std::slice::from_ref(&data))
            .expect("there is space");
        target
            .write_at(data.start, &[7; 65_536])
            .expect("there is space");
        Box::new(target).finish().expect("there is space");
        let bytes = std::fs::read(file.path())?;
        for (at, byte) in bytes.iter().enumerate() {
            let expected = match at as u64 {
                at if data.contains(&at) => 7,
                at if at < len => 0,
                _ => 0xee,
            };
            assert_eq!(*byte, expected, "at {at}");
        }
        Ok(())
    }
}
