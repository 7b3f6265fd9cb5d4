//! Puts pieces of any length together to whole pages.
//!
//! A write that covers part of a page makes the kernel read the page from the device first. Pieces
//! meet inside pages, so the ends of each are held until the page is whole.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

/// Linux's page, and a multiple of every device's logical block.
pub(super) const PAGE_LEN: u64 = 4096;

/// Pages that are known in part. Bounded by the pieces whose neighbours are still to come.
pub(super) struct PartialPages {
    disk_size: u64,
    pages: Mutex<HashMap<u64, PartialPage>>,
}

struct PartialPage {
    bytes: Box<[u8; PAGE_LEN as usize]>,
    known: u64,
}

impl PartialPages {
    pub(super) fn new(disk_size: u64) -> Self {
        Self {
            disk_size,
            pages: Mutex::new(HashMap::new()),
        }
    }

    /// Adds a piece that lies within one page, and returns the whole page (short at the disk's
    /// end) once all of its bytes were added.
    pub(super) fn add(&self, offset: u64, piece: &[u8]) -> Option<(u64, Box<[u8]>)> {
        let start = offset / PAGE_LEN * PAGE_LEN;
        let page_len = PAGE_LEN.min(self.disk_size - start);
        let mut pages = self.pages.lock().expect("no holder panics");
        let page = pages.entry(start).or_insert_with(|| PartialPage {
            bytes: Box::new([0; PAGE_LEN as usize]),
            known: 0,
        });
        let at = usize::try_from(offset - start).expect("below a page's length");
        page.bytes[at..at + piece.len()].copy_from_slice(piece);
        page.known += piece.len() as u64;
        if page.known < page_len {
            return None;
        }
        let whole = pages.remove(&start)?;
        let len = usize::try_from(page_len).expect("at most a page");
        Some((start, whole.bytes[..len].into()))
    }

    /// Returns whether every page that was begun is whole.
    pub(super) fn is_empty(&self) -> bool {
        self.pages.lock().expect("no holder panics").is_empty()
    }
}

/// Returns the whole pages of a range; empty where it holds none.
pub(super) fn whole_pages(range: &Range<u64>) -> Range<u64> {
    let start = range.start.next_multiple_of(PAGE_LEN);
    let end = range.end / PAGE_LEN * PAGE_LEN;
    if start < end {
        start..end
    } else {
        start..start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_when_its_last_byte_does() {
        let pages = PartialPages::new(2 * PAGE_LEN + 10);
        assert_eq!(pages.add(PAGE_LEN + 100, &[2; 3996]), None);
        assert_eq!(pages.add(2 * PAGE_LEN, &[3; 9]), None);
        let (start, whole) = pages.add(PAGE_LEN, &[1; 100]).expect("whole");
        assert_eq!(start, PAGE_LEN);
        assert_eq!(*whole, [[1; 100].as_slice(), &[2; 3996]].concat());
        assert!(!pages.is_empty());
        let (start, last) = pages.add(2 * PAGE_LEN + 9, &[4]).expect("whole");
        assert_eq!(start, 2 * PAGE_LEN);
        assert_eq!(*last, [3, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert!(pages.is_empty());
    }

    #[test]
    fn whole_pages_lie_within_the_range() {
        assert_eq!(whole_pages(&(0..PAGE_LEN)), 0..PAGE_LEN);
        assert_eq!(whole_pages(&(1..3 * PAGE_LEN + 1)), PAGE_LEN..3 * PAGE_LEN);
        assert!(whole_pages(&(1..PAGE_LEN + 4095)).is_empty());
        assert!(whole_pages(&(5..9)).is_empty());
    }
}
