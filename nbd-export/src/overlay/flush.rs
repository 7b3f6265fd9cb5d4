//! Making durable: the data first, then their entries in the map of what was flushed.

use std::collections::BTreeSet;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Overlay;
use super::header::{BootId, encode_state};
use super::layout::{Area, PAGE_LEN, PAGE_SECTORS, STATE_AT};
use super::mark::Mark;
use super::medium::Medium;
use super::sector::SectorCodec;
use crate::disk::DiskError;

impl Overlay {
    /// Refuses everything after a failed flush: what was written may be lost, what is written now
    /// would be built on it, and what is read now may be a hole where data were.
    pub(super) fn check_failed(&self, op: &'static str) -> Result<(), DiskError> {
        if !self.has_failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let source = io::Error::other("an earlier flush failed, and writes may be lost");
        Err(DiskError::Overlay { op, source })
    }

    /// Checks again, once the answer to a reader is complete: a flush may have failed meanwhile.
    /// What comes from the snapshot alone is right whatever failed.
    pub(super) fn check_failed_if(&self, has_own: bool) -> Result<(), DiskError> {
        match has_own {
            true => self.check_failed("read"),
            false => Ok(()),
        }
    }

    /// Makes all writes durable that ended before.
    pub(super) fn flush_all(&self) -> Result<(), DiskError> {
        self.check_failed("flush")?;
        let Some(codec) = &self.codec else {
            return Ok(());
        };
        let asked = self.writes.load(Ordering::Acquire);
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_failed("flush")?;
        // Somebody else's flush, begun after these writes ended, did it already.
        if *flushed >= asked {
            return Ok(());
        }
        let covered = self.writes.load(Ordering::Acquire);
        let pages = std::mem::take(&mut *self.lock_unflushed());
        let done = self.flush_pages(codec, &pages);
        if let Err(source) = done {
            self.lock_unflushed().extend(pages);
            return Err(DiskError::Overlay {
                op: "flush",
                source,
            });
        }
        *flushed = covered;
        Ok(())
    }

    pub(super) fn lock_unflushed(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.unflushed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A page of the map is written whole, and only here: while the system writes it out nobody
    /// changes it, so that no sector of it is ever half one state and half another.
    fn flush_pages(&self, codec: &SectorCodec, pages: &BTreeSet<u64>) -> io::Result<()> {
        // Taken before the data are made durable: what comes into the map later waits.
        let images: Vec<_> = pages
            .iter()
            .map(|page| (*page, self.page_image(codec, *page)))
            .collect();
        self.sync()?;
        for (page, image) in &images {
            let at = self.layout.page_at(Area::Flushed, *page);
            self.medium.write_at(at, [image, &[], &[]])?;
        }
        if images.is_empty() {
            return Ok(());
        }
        self.sync()
    }

    fn page_image(&self, codec: &SectorCodec, page: u64) -> Vec<u8> {
        let bits = self.map.page(page);
        let mut image = Vec::with_capacity(PAGE_LEN);
        for (number, sector) in (page * PAGE_SECTORS as u64..).zip(0..PAGE_SECTORS) {
            image.extend_from_slice(&codec.encode(Area::Flushed, number, &bits.load(sector)));
        }
        image
    }

    fn sync(&self) -> io::Result<()> {
        let done = self.medium.sync();
        if done.is_err() {
            self.has_failed.store(true, Ordering::Release);
            if let Some(mark) = self.mark {
                distrust(&*self.medium, mark);
            }
        }
        done
    }
}

/// Leaves word that what was written may be lost, to whoever opens the overlay next.
fn distrust(medium: &dyn Medium, mark: Mark) {
    // The mark first: the medium may take nothing any more, and may not even say so. The state is
    // for where there is no place for marks. If both fail, nothing better is known.
    drop(medium.set_mark(mark));
    let state = encode_state(BootId::NONE);
    drop(medium.write_at(STATE_AT, [&state, &[], &[]]));
}

/// Makes durable what is with the kernel, while an overlay is opened.
pub(super) fn sync_or_distrust(medium: &dyn Medium, mark: Mark) -> io::Result<()> {
    let done = medium.sync();
    if done.is_err() {
        distrust(medium, mark);
    }
    done
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Nobody is left to be told; what was answered is with the kernel all the same.
        drop(self.flush_all());
    }
}
