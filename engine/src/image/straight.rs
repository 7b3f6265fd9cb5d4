//! Frames that a client in sequence takes whole: decoded to where they are wanted, and not kept.

use std::ops::Range;

use super::Inner;
use super::frame::parts_of_key;
use super::window::{Piece, Window};

/// Pieces that were read as one frame.
pub(super) struct Run {
    pub(super) pieces: Range<usize>,
    /// Where the last one ends on the disk.
    pub(super) disk_end: u64,
}

impl Inner {
    /// Reads the frame that begins with the first of `pieces` to `buf`, which begins at disk
    /// offset `at`, if those pieces are all of it in the order of the disk. Where that is not so,
    /// or something fails, `None`: the usual way gives the bytes, or says why not.
    pub(super) fn read_straight(
        &self,
        window: &Window,
        pieces: Range<usize>,
        buf: &mut [u8],
        at: u64,
    ) -> Option<Run> {
        let all = window.pieces().get(pieces.clone())?;
        let first = all.first()?;
        let spot = first.spot().filter(|spot| spot.slot() == 0)?;
        let (pack, number) = parts_of_key(spot.frame_key());
        let mut end = first.chunk.offset;
        let follows = |(slot, piece): &(usize, &Piece)| {
            let is_next = piece.chunk.offset == end
                && piece.spot().is_some_and(|other| {
                    other.frame_key() == spot.frame_key() && other.slot() == *slot
                });
            end = piece.chunk.end();
            is_next
        };
        let count = all.iter().enumerate().take_while(follows).count();
        let run = all.get(..count)?;
        let reader = self.contents.footer(self.cache.pack(pack)).ok()?;
        let entry = reader.frame(u32::from(number))?;
        let disk_end = run.last()?.chunk.end();
        let start = usize::try_from(first.chunk.offset.checked_sub(at)?).ok()?;
        let len = usize::try_from(disk_end - first.chunk.offset).ok()?;
        if entry.chunks.len() != count || entry.plain_len as usize != len {
            return None;
        }
        let plain = buf.get_mut(start..start.checked_add(len)?)?;
        // Whoever makes it at this moment gives it to all.
        let _lead = self.cache.loading.try_lead(spot.frame_key())?;
        if self.cache.frames.get(spot.frame_key()).is_some() {
            return None;
        }
        let mut buffers = self.cache.take_buffers();
        let read = reader.read_frame_to(
            self.contents.repository().storage(),
            u32::from(number),
            &mut buffers.decompressor,
            &mut buffers.stored,
            plain,
        );
        self.cache.give_buffers(buffers);
        read.ok()?;
        let keys = self.contents.repository().keys();
        let mut rest = &*plain;
        for piece in run {
            let (bytes, behind) = rest.split_at_checked(piece.chunk.len as usize)?;
            if keys.chunk_id(bytes) != piece.chunk.id {
                return None;
            }
            rest = behind;
        }
        Some(Run {
            pieces: pieces.start..pieces.start + count,
            disk_end,
        })
    }
}
