//! The chunks of one window of a disk, and where they lie as far as that is known.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::frame::Spot;
use crate::chunker::ChunkRef;

/// A chunk that holds bytes of a window, with its place once that was looked up.
pub(super) struct Piece {
    pub(super) chunk: ChunkRef,
    spot: AtomicU64,
}

impl Piece {
    pub(super) fn new(chunk: ChunkRef) -> Self {
        Self {
            chunk,
            spot: AtomicU64::new(Spot::UNKNOWN.word()),
        }
    }

    /// Returns where the chunk lies, if that was looked up.
    pub(super) fn spot(&self) -> Option<Spot> {
        Spot::from_word(self.spot.load(Ordering::Relaxed))
    }

    /// Notes where the chunk lies: elsewhere than was thought, perhaps.
    pub(super) fn set_spot(&self, spot: Spot) {
        self.spot.store(spot.word(), Ordering::Relaxed);
    }

    /// Notes where the chunk lies, unless that is known.
    pub(super) fn suggest_spot(&self, spot: Spot) {
        let unknown = Spot::UNKNOWN.word();
        // Whoever was first is as right.
        let _ =
            self.spot
                .compare_exchange(unknown, spot.word(), Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The chunks that hold bytes of one window, in disk order. What lies between them is a hole.
pub(super) struct Window {
    pieces: Box<[Piece]>,
}

impl Window {
    pub(super) fn new(chunks: Vec<ChunkRef>) -> Self {
        Self {
            pieces: chunks.into_iter().map(Piece::new).collect(),
        }
    }

    /// Returns what this takes in memory.
    pub(super) fn cost(&self) -> usize {
        128 + self.pieces.len() * size_of::<Piece>()
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Returns the numbers of the pieces that hold bytes of `range`.
    pub(super) fn within(&self, range: &Range<u64>) -> Range<usize> {
        let pieces = &self.pieces;
        let first = pieces.partition_point(|piece| piece.chunk.end() <= range.start);
        let end = pieces.partition_point(|piece| piece.chunk.offset < range.end);
        first..end.max(first)
    }

    /// Returns the numbers of the pieces all of whose bytes lie in `range`.
    pub(super) fn inside(&self, range: &Range<u64>) -> Range<usize> {
        let pieces = &self.pieces;
        let first = pieces.partition_point(|piece| piece.chunk.offset < range.start);
        let end = pieces.partition_point(|piece| piece.chunk.end() <= range.end);
        first..end.max(first)
    }
}

/// Copies bytes that begin at disk offset `from` to where they belong in `buf`, which begins at
/// `at`.
pub(super) fn copy_overlap(buf: &mut [u8], at: u64, from: u64, bytes: &[u8]) {
    let skip = |least: u64, offset: u64| usize::try_from(least.saturating_sub(offset));
    let (Ok(into), Ok(out_of)) = (skip(from, at), skip(at, from)) else {
        return;
    };
    let (Some(to), Some(bytes)) = (buf.get_mut(into..), bytes.get(out_of..)) else {
        return;
    };
    let len = to.len().min(bytes.len());
    if let (Some(to), Some(bytes)) = (to.get_mut(..len), bytes.get(..len)) {
        to.copy_from_slice(bytes);
    }
}

/// Makes those bytes of `buf`, which begins at `at`, zero that lie in `range`.
pub(super) fn clear_overlap(buf: &mut [u8], at: u64, range: Range<u64>) {
    let end = at + buf.len() as u64;
    let (start, end) = (range.start.clamp(at, end), range.end.clamp(at, end));
    let index = |offset: u64| usize::try_from(offset - at).expect("within a buffer");
    if start < end
        && let Some(hole) = buf.get_mut(index(start)..index(end))
    {
        hole.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;

    #[test]
    fn overlaps_are_copied_to_their_place() {
        for (from, expected) in [(0, "abcdef"), (2, "..abcd"), (5, ".....a"), (6, "......")] {
            let mut buf = *b"......";
            copy_overlap(&mut buf, 10, 10 + from, b"abcdef");
            assert_eq!(buf, expected.as_bytes(), "{from}");
        }
        let mut buf = *b"......";
        copy_overlap(&mut buf, 10, 7, b"abcdef");
        assert_eq!(&buf, b"def...");
        copy_overlap(&mut buf, 10, 1, b"abcdef");
        assert_eq!(&buf, b"def...");
    }

    #[test]
    fn pieces_are_within_a_range_in_part_and_inside_it_whole() {
        let chunk = |offset, len| ChunkRef {
            offset,
            len,
            id: ChunkId::from_bytes([1; 32]),
        };
        let window = Window::new(vec![chunk(10, 10), chunk(20, 5), chunk(40, 10)]);
        for (range, within, inside) in [
            (10..50, 0..3, 0..3),
            (11..49, 0..3, 1..2),
            (20..26, 1..2, 1..2),
            (12..15, 0..1, 1..1),
            (30..50, 2..3, 2..3),
            (26..40, 2..2, 2..2),
        ] {
            assert_eq!(window.within(&range), within, "{range:?}");
            assert_eq!(window.inside(&range), inside, "{range:?}");
        }
    }

    #[test]
    fn holes_are_cleared_within_the_buffer() {
        let mut buf = [1; 6];
        clear_overlap(&mut buf, 10, 0..10);
        clear_overlap(&mut buf, 10, 16..20);
        assert_eq!(buf, [1; 6]);
        clear_overlap(&mut buf, 10, 3..11);
        clear_overlap(&mut buf, 10, 15..99);
        assert_eq!(buf, [0, 1, 1, 1, 1, 0]);
    }
}
