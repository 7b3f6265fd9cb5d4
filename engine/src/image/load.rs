//! The way to a chunk's bytes: its window, its place, its frame.

use std::ops::Range;
use std::sync::Arc;

use super::cache::Mended;
use super::flights::Joined;
use super::frame::{Frame, Held, Spot, parts_of_key};
use super::window::{Piece, Window};
use super::{ImageError, Inner};
use crate::chunker::ChunkRef;
use crate::format::pack::Footer;
use crate::id::{ContentId, PackId};
use crate::index::Place;
use crate::pack::PackError;
use crate::recipe::RecipeError;

impl Inner {
    pub(super) fn recipe_error(&self, source: RecipeError) -> ImageError {
        let target = self.target.clone();
        ImageError::Recipe { target, source }
    }

    pub(super) fn window_key(&self, number: u64) -> u64 {
        // The largest disk has 2^29 windows.
        u64::from(self.number) << 32 | number
    }

    /// Returns the chunks of a window, through the cache.
    pub(super) fn window(&self, number: u64) -> Result<Arc<Window>, ImageError> {
        let key = self.window_key(number);
        if let Some(window) = self.cache.windows.get(key) {
            return Ok(window);
        }
        let start = number * self.shape.window_len();
        let chunks = self
            .recipe()
            .chunks_in(start..start + self.shape.window_len());
        let chunks: Result<Vec<_>, _> = chunks.collect();
        let window = Arc::new(Window::new(
            chunks.map_err(|source| self.recipe_error(source))?,
        ));
        let cost = window.cost();
        let windows = &self.cache.windows;
        windows.insert(key, Arc::clone(&window), cost, drop);
        Ok(window)
    }

    /// Hands a chunk's bytes, once they are sure to be right, to `take`. Its frame is kept unless
    /// the pieces of `scanned` are all that is in it.
    ///
    /// # Errors
    ///
    /// The chunk is not whole where it is thought to be; `None` where nobody knows a place.
    pub(super) fn with_chunk(
        &self,
        window: &Window,
        index: usize,
        scanned: &Range<usize>,
        held: &mut Held<'_>,
        take: impl FnOnce(&[u8]),
    ) -> Result<(), Option<Arc<PackError>>> {
        let piece = window.pieces().get(index).ok_or(None)?;
        let spot = match piece.spot() {
            Some(spot) => spot,
            None => self.look_up(window, index).map_err(Arc::new)?.ok_or(None)?,
        };
        let key = spot.frame_key();
        let frame = held.get(key, || {
            let rest = match scanned.contains(&index) {
                true => window.pieces().get(index..scanned.end),
                false => None,
            };
            let rest = rest.unwrap_or_default();
            let here = |piece: &&Piece| piece.spot().is_some_and(|spot| spot.frame_key() == key);
            self.frame(key, rest.iter().take_while(here).count())
        })?;
        Ok(self.with_frame(frame, spot, &piece.chunk, take)?)
    }

    /// Hands the bytes of the chunk that should be at a place to `take`.
    pub(super) fn with_spot(
        &self,
        spot: Spot,
        chunk: &ChunkRef,
        take: impl FnOnce(&[u8]),
    ) -> Result<(), Arc<PackError>> {
        let frame = self.frame(spot.frame_key(), 0)?;
        self.with_frame(&frame, spot, chunk, take)
    }

    fn with_frame(
        &self,
        frame: &Frame,
        spot: Spot,
        chunk: &ChunkRef,
        take: impl FnOnce(&[u8]),
    ) -> Result<(), Arc<PackError>> {
        let keys = self.contents.repository().keys();
        let Some(bytes) = frame.chunk(spot.slot(), chunk, keys) else {
            let (pack, frame) = parts_of_key(spot.frame_key());
            return Err(Arc::new(PackError::DamagedContent {
                pack: self.cache.pack(pack),
                frame: u32::from(frame),
                content: chunk.id.into(),
            }));
        };
        take(bytes);
        Ok(())
    }

    /// Looks up where a piece lies, and notes it; and those of its neighbours that lie beside it.
    fn look_up(&self, window: &Window, index: usize) -> Result<Option<Spot>, PackError> {
        let Some(piece) = window.pieces().get(index) else {
            return Ok(None);
        };
        if let Some(mended) = self.cache.mended(piece.chunk.id) {
            let Mended::At(spot) = mended else {
                return Ok(None);
            };
            piece.set_spot(spot);
            return Ok(Some(spot));
        }
        let Some((pack, place)) = self.place(&piece.chunk)? else {
            return Ok(None);
        };
        let spot = self.spot(pack, &place, &piece.chunk)?;
        if let Some(spot) = spot {
            piece.set_spot(spot);
            let reader = self.contents.footer(pack)?;
            suggest_run(window, index, spot, place.frame, reader.footer());
        }
        Ok(spot)
    }

    /// Asks the index where a chunk lies.
    pub(super) fn place(&self, chunk: &ChunkRef) -> Result<Option<(PackId, Place)>, PackError> {
        let index = self.contents.index();
        let place = index.find(&[chunk.id.into()])?.pop().flatten();
        Ok(place.and_then(|place| Some((index.pack(place.pack)?, place))))
    }

    /// Returns the spot of a place, if the pack's footer says that the chunk lies there.
    pub(super) fn spot(
        &self,
        pack: PackId,
        place: &Place,
        chunk: &ChunkRef,
    ) -> Result<Option<Spot>, PackError> {
        let reader = self.contents.footer(pack)?;
        let range = reader.slot_range(place, chunk.id.into());
        let holds = range.is_some_and(|range| range.len() == chunk.len as usize);
        let number = self.cache.number_of(pack);
        Ok(holds.then(|| Spot::new(number, place.frame, place.slot)))
    }

    /// Returns a decoded frame, through the cache. Of threads that want the same one at once, one
    /// decodes it. One of which all chunks are `wanted` by a client in sequence is not kept: it
    /// would only push out what is used again.
    /// Who waited for one that failed is told why, and does not try again: storage that is down
    /// takes its time with each.
    fn frame(&self, key: u64, wanted: usize) -> Result<Arc<Frame>, Arc<PackError>> {
        loop {
            if let Some(frame) = self.cache.frames.get(key) {
                return Ok(frame);
            }
            match self.cache.loading.join(key) {
                Joined::Landed(Some(made)) => return made,
                // Whoever tried has panicked.
                Joined::Landed(None) => {}
                Joined::Lead(lead) => {
                    // It may have come between the look and the lead.
                    if let Some(frame) = self.cache.frames.get(key) {
                        lead.land(Ok(Arc::clone(&frame)));
                        return Ok(frame);
                    }
                    let made = self.decode(key).map_err(Arc::new);
                    if let Ok(frame) = &made
                        && wanted < frame.slots()
                    {
                        let cache = &self.cache;
                        let gone = |frame| cache.recycle(frame);
                        cache
                            .frames
                            .insert(key, Arc::clone(frame), frame.cost(), gone);
                    }
                    lead.land(made.clone());
                    return made;
                }
            }
        }
    }

    fn decode(&self, key: u64) -> Result<Arc<Frame>, PackError> {
        let (pack, number) = parts_of_key(key);
        let reader = self.contents.footer(self.cache.pack(pack))?;
        let entry = reader.frame(u32::from(number));
        let plain_len = entry.map_or(0, |entry| entry.plain_len as usize);
        let mut plain = self.cache.take_plain(plain_len);
        let mut buffers = self.cache.take_buffers();
        let read = reader.read_frame(
            self.contents.repository().storage(),
            u32::from(number),
            &mut buffers.decompressor,
            &mut buffers.stored,
            &mut plain,
        );
        self.cache.give_buffers(buffers);
        read?;
        Ok(Arc::new(Frame::new(&reader, number, plain)))
    }
}

/// Notes the places of the pieces before and after one, as far as the same chunks lie before and
/// after it in its pack: what a backup found new it wrote in disk order. One look-up in the index
/// then does for the run.
fn suggest_run(window: &Window, index: usize, spot: Spot, frame: u16, footer: &Footer) {
    let number = parts_of_key(spot.frame_key()).0;
    let suggest = |piece: &Piece, frame: usize, slot: usize| -> Option<()> {
        let first = footer.frames.get(frame)?.chunks.start as usize;
        let entry = footer.entries.get(first + slot)?;
        let same = entry.id == ContentId::from(piece.chunk.id) && entry.len == piece.chunk.len;
        let (frame, slot) = (u16::try_from(frame).ok()?, u16::try_from(slot).ok()?);
        same.then(|| piece.suggest_spot(Spot::new(number, frame, slot)))
    };
    let slots = |frame: usize| footer.frames.get(frame).map_or(0, |at| at.chunks.len());
    let (before, after) = window.pieces().split_at(index);

    let (mut at, mut slot) = (usize::from(frame), spot.slot());
    for piece in after.iter().skip(1) {
        slot += 1;
        if slot >= slots(at) {
            (at, slot) = (at + 1, 0);
        }
        if suggest(piece, at, slot).is_none() {
            break;
        }
    }
    let (mut at, mut slot) = (usize::from(frame), spot.slot());
    for piece in before.iter().rev() {
        if slot == 0 {
            let Some(previous) = at.checked_sub(1) else {
                break;
            };
            (at, slot) = (previous, slots(previous));
        }
        let Some(previous) = slot.checked_sub(1) else {
            break;
        };
        slot = previous;
        if suggest(piece, at, slot).is_none() {
            break;
        }
    }
}
