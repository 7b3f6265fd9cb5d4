//! Chunks that are not whole where the index says: looked for again, and then in all packs.
//!
//! A search reads every footer there is, so it is shared. It asks after all that a damaged pack
//! holds, as the next reads will want that, and after what others wait for meanwhile; they take
//! its answer, also that it failed.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::cache::{Mended, SEARCH_IDS_MAX, Searched};
use super::flights::Joined;
use super::frame::parts_of_key;
use super::window::Piece;
use super::{ImageError, Inner};
use crate::chunker::ChunkRef;
use crate::id::{ContentId, PackId};
use crate::index::Place;
use crate::limits::MIB;
use crate::pack::PackError;
use crate::repository::{RepositoryError, weightiest};

/// How much of the disk behind a chunk a search covers, where nobody can tell what its pack held:
/// about what a pack holds.
const KIN_LEN: u64 = 128 * MIB;

/// Searches after which a piece that keeps moving is given up: each takes a collection that moves
/// it between the search and the read.
const SEARCHES_MAX: usize = 8;

/// A piece that was not to be had, and why, where a place was known.
pub(super) type Elsewhere<'p> = (&'p Piece, Option<Arc<PackError>>);

/// Takes the bytes of a chunk.
type Give<'g> = dyn FnMut(&ChunkRef, &[u8]) + 'g;

/// What became of a piece that was tried where a search found copies.
enum Tried {
    Given,
    /// Packs went since: the search says nothing any more. What kept the copies from being taken.
    Stale(Vec<Arc<PackError>>),
}

impl Inner {
    /// Finds pieces in other places, and hands their bytes to `give`. `range` is what of the disk
    /// is wanted.
    ///
    /// # Errors
    ///
    /// A piece that no pack has whole, or a search that failed.
    pub(super) fn mend(
        &self,
        elsewhere: Vec<Elsewhere<'_>>,
        range: &Range<u64>,
        give: &mut Give<'_>,
    ) -> Result<(), ImageError> {
        if elsewhere.is_empty() {
            return Ok(());
        }
        let mut left = self.try_known(elsewhere, range, give)?;
        let mut searches = 0;
        while let Some((first, _)) = left.first() {
            let first = first.chunk;
            let ids = left.iter().map(|(piece, _)| piece.chunk.id.into());
            self.cache.want(ids);
            match self.cache.searching.join(0) {
                Joined::Lead(lead) => {
                    // Another search may have ended between the look and the lead.
                    left = self.try_known(left, range, give)?;
                    if left.is_empty() {
                        break;
                    }
                    let searched = self.search(&left);
                    lead.land(searched.as_ref().map(drop).map_err(Arc::clone));
                    let failed = |error| self.bytes_error(&first, range, error);
                    let searched = searched.map_err(failed)?;
                    searches += 1;
                    let is_last = searches == SEARCHES_MAX;
                    left = self.settle(left, range, &searched, is_last, give)?;
                }
                Joined::Landed(Some(Err(error))) => {
                    return Err(self.bytes_error(&first, range, error));
                }
                Joined::Landed(_) => left = self.try_known(left, range, give)?,
            }
        }
        Ok(())
    }

    /// Tries what is known by now, and returns the pieces of which nothing is.
    fn try_known<'p>(
        &self,
        wanted: Vec<Elsewhere<'p>>,
        range: &Range<u64>,
        give: &mut Give<'_>,
    ) -> Result<Vec<Elsewhere<'p>>, ImageError> {
        let mut left = Vec::new();
        for (piece, failure) in wanted {
            match self.cache.mended(piece.chunk.id) {
                Some(Mended::Lost(_, source)) => {
                    return Err(self.bytes_error(&piece.chunk, range, source));
                }
                Some(Mended::At(spot)) => {
                    let take = |bytes: &[u8]| give(&piece.chunk, bytes);
                    if self.with_spot(spot, &piece.chunk, take).is_ok() {
                        piece.set_spot(spot);
                        continue;
                    }
                }
                None => {}
            }
            if self.try_index(piece, give) {
                continue;
            }
            let searched = self.cache.searched(piece.chunk.id.into());
            let tried =
                searched.map(|searched| self.try_copies(piece, failure.as_ref(), &searched, give));
            match tried {
                Some(Ok(Tried::Given)) => {}
                Some(Ok(Tried::Stale(_))) | None => left.push((piece, failure)),
                Some(Err(error)) => return Err(self.bytes_error(&piece.chunk, range, error)),
            }
        }
        Ok(left)
    }

    /// Asks the index again, which a search for another chunk may have told of new packs.
    fn try_index(&self, piece: &Piece, give: &mut Give<'_>) -> bool {
        let Ok(Some((pack, place))) = self.place(&piece.chunk) else {
            return false;
        };
        let is_new = |spot| Some(spot) != piece.spot();
        let spot = self.spot(pack, &place, &piece.chunk);
        spot.is_ok_and(|spot| spot.is_some_and(is_new))
            && self
                .try_copy(pack, &place, piece, give)
                .is_ok_and(|found| found)
    }

    /// Searches all packs for what is left, for what is likely wanted next, and for what others
    /// wait for.
    fn search(&self, left: &[Elsewhere<'_>]) -> Result<Arc<Searched>, Arc<RepositoryError>> {
        let mut ids = self.cache.take_wanted();
        ids.extend(
            left.iter()
                .map(|(piece, _)| ContentId::from(piece.chunk.id)),
        );
        self.add_kin(left, &mut ids);
        let mut copies = self.contents.copies(&ids).map_err(Arc::new)?;
        let searched = Arc::new(Searched {
            when: Instant::now(),
            unreachable: copies.take_unreachable().map(Arc::new),
            ids,
            copies,
        });
        self.cache.remember_search(Arc::clone(&searched));
        Ok(searched)
    }

    /// Adds what the packs of these pieces hold, or where that cannot be told, what comes behind
    /// them on the disk.
    fn add_kin(&self, left: &[Elsewhere<'_>], ids: &mut HashSet<ContentId>) {
        let mut packs = HashSet::new();
        let mut disk = None;
        for (piece, _) in left {
            let pack = piece.spot().map(|spot| parts_of_key(spot.frame_key()).0);
            match pack.map(|pack| {
                (
                    packs.insert(pack),
                    self.contents.footer(self.cache.pack(pack)),
                )
            }) {
                Some((true, Ok(reader))) => {
                    let held = reader.footer().entries.iter().map(|entry| entry.id);
                    ids.extend(held.take(SEARCH_IDS_MAX));
                }
                Some((false, Ok(_))) => {}
                _ => disk = disk.or(Some(piece.chunk.offset)),
            }
        }
        if let Some(start) = disk {
            let end = start.saturating_add(KIN_LEN).min(self.shape.size());
            // What of the recipe cannot be read is not searched for now.
            let behind = self.recipe().chunks_in(start..end).map_while(Result::ok);
            ids.extend(
                behind
                    .take(SEARCH_IDS_MAX)
                    .map(|chunk| ContentId::from(chunk.id)),
            );
        }
    }

    /// Takes what a search found that has just ended. Every piece gets its verdict, so that none
    /// is searched for again, but for those that moved meanwhile: these are returned, unless it
    /// `is_last`.
    fn settle<'p>(
        &self,
        wanted: Vec<Elsewhere<'p>>,
        range: &Range<u64>,
        searched: &Searched,
        is_last: bool,
        give: &mut Give<'_>,
    ) -> Result<Vec<Elsewhere<'p>>, ImageError> {
        let mut first = Ok(());
        let mut moved = Vec::new();
        for (piece, failure) in wanted {
            let tried = match self.try_copies(piece, failure.as_ref(), searched, give) {
                Ok(Tried::Stale(reasons)) if is_last => {
                    self.verdict(&piece.chunk, reasons, searched)
                }
                Ok(Tried::Stale(_)) => {
                    moved.push((piece, failure));
                    continue;
                }
                Ok(Tried::Given) => continue,
                Err(error) => error,
            };
            if first.is_ok() {
                first = Err(self.bytes_error(&piece.chunk, range, tried));
            }
        }
        first.map(|()| moved)
    }

    /// Takes the first copy of a piece that is whole.
    fn try_copies(
        &self,
        piece: &Piece,
        failure: Option<&Arc<PackError>>,
        searched: &Searched,
        give: &mut Give<'_>,
    ) -> Result<Tried, Arc<RepositoryError>> {
        let chunk = &piece.chunk;
        let mut reasons = Vec::from_iter(failure.cloned());
        // Found a pack that is gone now, or did not see that it is gone.
        let mut is_stale = failure.is_some_and(|failure| failure.is_gone())
            && piece.spot().is_some_and(|spot| {
                let (pack, _) = parts_of_key(spot.frame_key());
                searched.copies.has_seen(self.cache.pack(pack))
            });
        for (pack, place) in searched.copies.of(chunk.id.into()) {
            match self.try_copy(*pack, place, piece, give) {
                Ok(true) => return Ok(Tried::Given),
                Ok(false) => {}
                Err(error) => {
                    is_stale |= error.is_gone();
                    reasons.push(error);
                }
            }
        }
        match is_stale {
            true => Ok(Tried::Stale(reasons)),
            false => Err(self.verdict(chunk, reasons, searched)),
        }
    }

    /// Returns why a chunk is not to be had, and remembers that it is lost where that is sure.
    fn verdict(
        &self,
        chunk: &ChunkRef,
        mut reasons: Vec<Arc<PackError>>,
        searched: &Searched,
    ) -> Arc<RepositoryError> {
        let id = ContentId::from(chunk.id);
        reasons.extend(searched.unreachable.clone());
        let range = chunk.offset..chunk.end();
        let error = match weightiest(reasons) {
            None => RepositoryError::MissingChunk { chunk: id, range },
            Some(source) => RepositoryError::DamagedChunk {
                chunk: id,
                range,
                source,
            },
        };
        let error = Arc::new(self.contents.verdict(error));
        // While a pack is out of reach, nobody can say that it has no copy.
        if error.is_damage() {
            let lost = Mended::Lost(Instant::now(), Arc::clone(&error));
            self.cache.remember(chunk.id, lost);
        }
        error
    }

    /// Tries one place. If the piece is whole there, it is remembered, and looked for there next.
    fn try_copy(
        &self,
        pack: PackId,
        place: &Place,
        piece: &Piece,
        give: &mut Give<'_>,
    ) -> Result<bool, Arc<PackError>> {
        let Some(spot) = self.spot(pack, place, &piece.chunk)? else {
            return Ok(false);
        };
        let take = |bytes: &[u8]| give(&piece.chunk, bytes);
        self.with_spot(spot, &piece.chunk, take)?;
        piece.set_spot(spot);
        self.cache.remember(piece.chunk.id, Mended::At(spot));
        Ok(true)
    }

    fn bytes_error(
        &self,
        chunk: &ChunkRef,
        range: &Range<u64>,
        source: Arc<RepositoryError>,
    ) -> ImageError {
        ImageError::Bytes {
            target: self.target.clone(),
            range: chunk.offset.max(range.start)..chunk.end().min(range.end),
            source,
        }
    }
}
