//! Reads window by window: what chunks cover is copied, and what none covers is zero.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::frame::Held;
use super::window::{clear_overlap, copy_overlap};
use super::{ImageError, Inner};
use crate::recipe::Recipe;

impl Inner {
    pub(super) fn recipe(&self) -> Recipe<'_> {
        Recipe::new(&*self.contents, self.shape, self.root)
    }

    /// Splits a read at windows, and gives each part with the number of its window.
    fn parts<'b>(
        &self,
        offset: u64,
        buf: &'b mut [u8],
    ) -> impl Iterator<Item = (u64, u64, &'b mut [u8])> + use<'b> {
        let window_len = self.shape.window_len();
        let (mut at, mut rest) = (offset, buf);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let left = usize::try_from(window_len - at % window_len).expect("a window is small");
            let all = std::mem::take(&mut rest);
            let (part, behind) = all.split_at_mut(left.min(all.len()));
            let here = at;
            at += part.len() as u64;
            rest = behind;
            Some((here / window_len, here, part))
        })
    }

    /// Reads what may have to be decoded. Of a client in sequence, frames that it takes whole are
    /// not kept.
    pub(super) fn read_windows(
        &self,
        offset: u64,
        buf: &mut [u8],
        is_scan: bool,
    ) -> Result<(), ImageError> {
        let mut held = Held::new(&self.cache);
        for (number, at, part) in self.parts(offset, buf) {
            let window = self.window(number)?;
            let range = at..at + part.len() as u64;
            let mut elsewhere = Vec::new();
            let mut done = at;
            let within = window.within(&range);
            let scanned = if is_scan { window.inside(&range) } else { 0..0 };
            let mut straight = 0..0;
            for index in within {
                let Some(piece) = window.pieces().get(index) else {
                    break;
                };
                if straight.contains(&index) {
                    continue;
                }
                clear_overlap(part, at, done..piece.chunk.offset);
                done = piece.chunk.end();
                if scanned.contains(&index)
                    && let Some(run) = self.read_straight(&window, index..scanned.end, part, at)
                {
                    done = run.disk_end;
                    straight = run.pieces;
                    continue;
                }
                let copy = |bytes: &[u8]| copy_overlap(part, at, piece.chunk.offset, bytes);
                if let Err(error) = self.with_chunk(&window, index, &scanned, &mut held, copy) {
                    elsewhere.push((piece, error));
                }
            }
            clear_overlap(part, at, done..range.end);
            self.mend(elsewhere, &range, &mut |chunk, bytes| {
                copy_overlap(part, at, chunk.offset, bytes);
            })?;
        }
        Ok(())
    }

    pub(super) fn try_read_windows(&self, offset: u64, buf: &mut [u8]) -> bool {
        let mut held = Held::new(&self.cache);
        for (number, at, part) in self.parts(offset, buf) {
            let Some(window) = self.cache.windows.get(self.window_key(number)) else {
                return false;
            };
            let range = at..at + part.len() as u64;
            let mut done = at;
            for piece in window
                .pieces()
                .get(window.within(&range))
                .unwrap_or_default()
            {
                clear_overlap(part, at, done..piece.chunk.offset);
                done = piece.chunk.end();
                let Some(spot) = piece.spot() else {
                    return false;
                };
                let key = spot.frame_key();
                let frame = held.get(key, || self.cache.frames.get(key).ok_or(()));
                let Some(bytes) = frame
                    .ok()
                    .and_then(|frame| frame.checked_chunk(spot.slot(), &piece.chunk))
                else {
                    return false;
                };
                copy_overlap(part, at, piece.chunk.offset, bytes);
            }
            clear_overlap(part, at, done..range.end);
        }
        true
    }

    /// Decodes and checks what `range` needs. Whatever fails fails again when it is read.
    pub(super) fn warm(&self, range: Range<u64>) {
        let mut held = Held::new(&self.cache);
        let window_len = self.shape.window_len();
        for number in range.start / window_len..range.end.div_ceil(window_len) {
            let Ok(window) = self.window(number) else {
                return;
            };
            for index in window.within(&range) {
                if self.is_left.load(Ordering::Relaxed) {
                    return;
                }
                drop(self.with_chunk(&window, index, &(0..0), &mut held, |_| {}));
            }
        }
    }
}
