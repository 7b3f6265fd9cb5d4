//! A snapshot's disk that is open, and how it is asked.

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::ahead::Streams;
use super::{ImageCache, ImageError};
use crate::extent::{Extent, ExtentStatus, push_extent};
use crate::format::manifest::DiskRecord;
use crate::id::NodeId;
use crate::limits::{KIB, MIB};
use crate::recipe::Shape;
use crate::repository::Contents;

/// Longest read that is tried without waiting: a longer one takes more than microseconds to copy.
const TRY_LEN_MAX: usize = 256 * KIB as usize;
/// What a long read is done in, with the rest decoded meanwhile by the threads that read ahead.
const READ_STEP: u64 = 512 * KIB;

/// A snapshot's disk, ready to be read anywhere. Clones are the same image; threads share it. Who
/// drops the last of them waits until nobody reads ahead of it any more.
#[derive(Clone)]
pub struct Image(Arc<Clones>);

/// What the clones of an image share, and the threads that read ahead do not.
struct Clones(Arc<Inner>);

impl Deref for Clones {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Drop for Clones {
    fn drop(&mut self) {
        self.cache.workers.leave(self);
    }
}

/// What the clones of an image share, also with those who read ahead.
pub(super) struct Inner {
    pub(super) contents: Arc<Contents>,
    pub(super) cache: Arc<ImageCache>,
    pub(super) target: String,
    pub(super) shape: Shape,
    pub(super) root: NodeId,
    /// Tells its windows from those of other images.
    pub(super) number: u32,
    streams: Streams,
    /// Reads under way that may have to wait.
    readers: AtomicUsize,
    /// Whether its last clone goes: nobody needs anything of it any more.
    pub(super) is_left: AtomicBool,
}

/// Counts one of [`Inner::readers`] while it lives.
struct Reader<'i>(&'i AtomicUsize);

impl<'i> Reader<'i> {
    fn new(readers: &'i AtomicUsize) -> Self {
        readers.fetch_add(1, Ordering::Relaxed);
        Self(readers)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Image {
    /// Opens a snapshot's disk. Reads nothing yet, however large the disk is.
    ///
    /// # Errors
    ///
    /// A disk larger than any that is supported.
    pub fn open(
        contents: Arc<Contents>,
        disk: &DiskRecord,
        cache: &Arc<ImageCache>,
    ) -> Result<Self, ImageError> {
        let window_len = contents.repository().chunker().window_len();
        let target = disk.target.clone();
        let shape = match Shape::new(disk.size, window_len) {
            Ok(shape) => shape,
            Err(source) => return Err(ImageError::Recipe { target, source }),
        };
        let inner = Arc::new(Inner {
            contents,
            cache: Arc::clone(cache),
            target,
            shape,
            root: disk.recipe,
            number: cache.next_image(),
            streams: Streams::default(),
            readers: AtomicUsize::new(0),
            is_left: AtomicBool::new(false),
        });
        Ok(Self(Arc::new(Clones(inner))))
    }

    /// Returns the disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.0.shape.size()
    }

    /// Fills `buf` with the disk's bytes from `offset`, every chunk of them compared with its id.
    ///
    /// # Errors
    ///
    /// A chunk or recipe node that no pack gives back whole. `buf` may then hold anything.
    ///
    /// # Panics
    ///
    /// Unless the range lies within the disk.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let range = self.range_of(offset, buf.len());
        let _reader = Reader::new(&self.0.readers);
        let is_scan = self.note(&range);
        let mut submitted = range.start.saturating_add(READ_STEP);
        let step = usize::try_from(READ_STEP).expect("it is small");
        for (number, part) in buf.chunks_mut(step).enumerate() {
            let at = offset + number as u64 * READ_STEP;
            let near = at.saturating_add(self.0.cache.ahead_max()).min(range.end);
            if near > submitted && at + READ_STEP < range.end {
                let ahead = submitted.max(at + READ_STEP)..near;
                self.0.cache.workers.submit(&self.0.0, ahead, true);
                submitted = near;
            }
            self.0.read_windows(at, part, is_scan)?;
        }
        Ok(())
    }

    /// Does the same if all of it is decoded, checked and in memory, and returns whether it did.
    /// Takes microseconds; where it returns `false`, `buf` may hold anything.
    ///
    /// # Panics
    ///
    /// Unless the range lies within the disk.
    pub fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        let range = self.range_of(offset, buf.len());
        let done = buf.len() <= TRY_LEN_MAX && self.0.try_read_windows(offset, buf);
        if done {
            self.note(&range);
        }
        done
    }

    /// Returns which parts of `range` hold data and which are holes, as the recipe says: extents
    /// that cover the range exactly, in disk order.
    ///
    /// Takes time in proportion to the data in the range.
    ///
    /// # Errors
    ///
    /// A recipe node that no pack gives back whole.
    ///
    /// # Panics
    ///
    /// Unless the range lies within the disk.
    pub fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, ImageError> {
        assert!(range.end <= self.size(), "{range:?} lies beyond the disk");
        let mut extents = Vec::new();
        let mut at = range.start;
        for chunk in self.0.recipe().chunks_in(range.clone()) {
            let chunk = chunk.map_err(|source| self.0.recipe_error(source))?;
            let (start, end) = (chunk.offset.max(at), chunk.end().min(range.end));
            push_extent(&mut extents, at, start - at, ExtentStatus::Zero);
            push_extent(&mut extents, start, end - start, ExtentStatus::Data);
            at = end;
        }
        let rest = range.end.saturating_sub(at);
        push_extent(&mut extents, at, rest, ExtentStatus::Zero);
        Ok(extents)
    }

    /// Has a range decoded and checked in the background, as much of it as there is good room for;
    /// returns at once. Failures show when the range is read.
    pub fn prefetch(&self, range: Range<u64>) {
        let most = (self.0.cache.frames.cost_max() / 2) as u64;
        let end = range
            .end
            .min(self.size())
            .min(range.start.saturating_add(most));
        self.0
            .cache
            .workers
            .submit(&self.0.0, range.start..end, false);
    }

    fn range_of(&self, offset: u64, len: usize) -> Range<u64> {
        let end = offset.checked_add(len as u64);
        let end = end.filter(|end| *end <= self.size());
        offset..end.expect("callers read within the disk")
    }

    /// Takes note of a read, has read ahead what comes next, and returns whether the client goes
    /// over the disk once.
    fn note(&self, range: &Range<u64>) -> bool {
        let Inner { cache, streams, .. } = &**self.0;
        let noted = streams.note(range.clone(), self.size(), cache.ahead_max());
        // With several reads under way at once the readers themselves keep the processors busy.
        if self.0.readers.load(Ordering::Relaxed) <= 1
            && let Some(ahead) = noted.ahead
        {
            cache.workers.submit(&self.0.0, ahead, false);
        }
        noted.is_scan
    }
}

const _: () = assert!(READ_STEP <= MIB && TRY_LEN_MAX as u64 <= READ_STEP);
