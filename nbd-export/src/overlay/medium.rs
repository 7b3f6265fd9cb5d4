//! What an overlay asks of the file that it lies in. Tests put a simulated one in its place, which
//! is killed and loses power.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::mark::{Mark, Marks};

/// A file of fixed length. Shared by threads.
pub(super) trait Medium: Send + Sync {
    /// Fills `buf` from `offset`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Does the same if the bytes are in memory; returns whether it did.
    fn read_cached_at(&self, offset: u64, buf: &mut [u8]) -> bool;

    /// Hands `parts`, one after the other, to the kernel. On an error a part of them may be there.
    fn write_at(&self, offset: u64, parts: [&[u8]; 3]) -> io::Result<()>;

    /// Makes a range read as zeros, and frees the space under it unless `keep_allocated`.
    fn zero(&self, range: Range<u64>, keep_allocated: bool) -> io::Result<()>;

    /// Sets space aside, so that a later write into the range finds it.
    fn reserve(&self, range: Range<u64>) -> io::Result<()>;

    /// Returns the first part of a range that is not known to read as zeros.
    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>>;

    /// Makes all that was written durable. After it failed, what is read may be what was written
    /// and is not there: the system reports a lost page once.
    fn sync(&self) -> io::Result<()>;

    /// Lets go of what is in memory and counts as written out, so that it is read anew.
    fn drop_cached(&self) -> io::Result<()>;

    /// Leaves a mark that is there until the machine stops, whatever becomes of the file.
    fn set_mark(&self, mark: Mark) -> io::Result<()>;

    /// Returns whether such a mark is there.
    fn has_mark(&self, mark: Mark) -> io::Result<bool>;

    /// Takes such a mark back.
    fn remove_mark(&self, mark: Mark) -> io::Result<()>;
}

/// Zeros that are written where the file system cannot be told to make them.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A file of this machine.
#[derive(Debug)]
pub(super) struct RealMedium {
    file: File,
    marks: Marks,
    /// Whether the kind of file system can be asked to read without waiting, as far as is known.
    can_try: AtomicBool,
}

/// Calls again what a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Whether a file system has no such call, or not for such a file.
fn is_unknown(err: Errno) -> bool {
    err == Errno::OPNOTSUPP || err == Errno::NOSYS || err == Errno::INVAL
}

impl RealMedium {
    /// Takes the file, which others may know.
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            marks: Marks::default(),
            can_try: AtomicBool::new(true),
        }
    }

    fn fallocate(&self, flags: FallocateFlags, range: &Range<u64>) -> rustix::io::Result<()> {
        let len = range.end - range.start;
        retry(|| rustix::fs::fallocate(&self.file, flags, range.start, len))
    }

    fn seek(&self, to: SeekFrom) -> io::Result<Option<u64>> {
        match retry(|| rustix::fs::seek(&self.file, to)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }
}

impl Medium for RealMedium {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn read_cached_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        if !self.can_try.load(Ordering::Relaxed) {
            return false;
        }
        let len = buf.len();
        let mut slices = [IoSliceMut::new(buf)];
        let flags = ReadWriteFlags::NOWAIT;
        let done = retry(|| rustix::io::preadv2(&self.file, &mut slices, offset, flags));
        if done == Err(Errno::OPNOTSUPP) {
            self.can_try.store(false, Ordering::Relaxed);
        }
        done == Ok(len)
    }

    fn write_at(&self, mut offset: u64, parts: [&[u8]; 3]) -> io::Result<()> {
        let mut slices = parts.map(IoSlice::new);
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let written = retry(|| rustix::io::pwritev(&self.file, left, offset))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            IoSlice::advance_slices(&mut left, written);
        }
        Ok(())
    }

    fn zero(&self, range: Range<u64>, keep_allocated: bool) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let flags = match keep_allocated {
            true => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            false => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        };
        match self.fallocate(flags, &range) {
            Err(err) if is_unknown(err) => {}
            done => return Ok(done?),
        }
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(ZEROS.len() as u64);
            self.write_at(
                at,
                [
                    &ZEROS[..usize::try_from(len).expect("a part of ZEROS")],
                    &[],
                    &[],
                ],
            )?;
            at += len;
        }
        Ok(())
    }

    fn reserve(&self, range: Range<u64>) -> io::Result<()> {
        match self.fallocate(FallocateFlags::KEEP_SIZE, &range) {
            // What cannot be reserved is found out when it is written.
            Err(err) if is_unknown(err) => Ok(()),
            done => Ok(done?),
        }
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        if range.is_empty() {
            return Ok(None);
        }
        let start = match self.seek(SeekFrom::Data(range.start)) {
            Ok(Some(start)) if start < range.end => start.max(range.start),
            Ok(_) => return Ok(None),
            // No holes are known here.
            Err(err)
                if err
                    .raw_os_error()
                    .map(Errno::from_raw_os_error)
                    .is_some_and(is_unknown) =>
            {
                return Ok(Some(range));
            }
            Err(err) => return Err(err),
        };
        let end = self.seek(SeekFrom::Hole(start))?.unwrap_or(range.end);
        // What others write and free meanwhile must not make an empty answer.
        let end = if end <= start { range.end } else { end };
        Ok(Some(start..end.min(range.end)))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::fdatasync(&self.file))?)
    }

    fn drop_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    fn set_mark(&self, mark: Mark) -> io::Result<()> {
        self.marks.set(mark)
    }

    fn has_mark(&self, mark: Mark) -> io::Result<bool> {
        self.marks.has(mark)
    }

    fn remove_mark(&self, mark: Mark) -> io::Result<()> {
        self.marks.remove(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_can_read_without_waiting_nothing_is_tried() {
        let medium = RealMedium::new(File::open("/proc/version").expect("is there"));
        assert!(!medium.read_cached_at(0, &mut [0; 4]));
        assert!(!medium.can_try.load(Ordering::Relaxed));
        medium.read_at(0, &mut [0; 4]).expect("is readable");
    }
}
