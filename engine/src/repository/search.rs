//! The slow way to content: what the index does not know, or knows in a place that turned out bad,
//! is looked for in the footers of all packs, which are listed anew. Comes before anyone says that
//! something is missing.

use std::collections::{HashMap, HashSet};

use super::contents::{FooterSource, list_packs};
use super::{Contents, RepositoryError};
use crate::id::{ContentId, PackId};
use crate::index::{PackFooters, PackPrefix, Place};
use crate::pack::PackError;

/// Every copy that the footers of all packs name of some ids.
#[derive(Default)]
pub struct Copies {
    places: HashMap<ContentId, Vec<(PackId, Place)>>,
    /// The first pack that is out of reach, which is no proof that it holds nothing.
    unreachable: Option<PackError>,
}

impl Copies {
    /// Returns where copies of an id lie. What is there still has to be compared with the id.
    pub fn of(&self, id: ContentId) -> &[(PackId, Place)] {
        self.places.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Returns why nobody can say that an id without copies is missing, if so.
    pub fn take_unreachable(&mut self) -> Option<PackError> {
        self.unreachable.take()
    }
}

impl Contents {
    /// Finds every copy of `ids`: lists the packs again, and reads all their footers once.
    pub fn copies(&self, ids: &HashSet<ContentId>) -> Result<Copies, RepositoryError> {
        self.refresh()?;
        // Past the cache of footers, which one pass over all packs would empty for nothing.
        let footers = FooterSource::to_look(self.repository());
        let anywhere = self.index().find_anywhere(ids, &footers)?;
        // What a pack cannot give back is not to be had from it; all other reasons leave it open.
        let errors = anywhere.unreadable.into_iter().map(|(_, error)| error);
        Ok(Copies {
            places: anywhere.found,
            unreachable: errors.into_iter().find(|error| !error.is_loss()),
        })
    }

    /// Lists the packs again, and takes in those that have come since: a collection that repacks
    /// while this session reads moves into new packs what it wants.
    fn refresh(&self) -> Result<(), RepositoryError> {
        let mut packs = list_packs(self.repository(), self.is_writer())?;
        let known = self.packs();
        let known: HashSet<&PackId> = known.iter().collect();
        let footers = FooterSource::to_build_on(self.repository());
        let mut failure = None;
        packs.retain(|pack| {
            known.contains(pack)
                || self.index().pack(PackPrefix::of(*pack)) == Some(*pack)
                || footers.places(*pack).is_ok_and(|places| {
                    let added = self.index().add_pack(*pack, &places);
                    failure = failure.take().or(added.err());
                    true
                })
        });
        self.set_packs(packs);
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Returns content whose hash is right from one of its copies; `None` where nobody has it.
    /// `failure` is why a copy that was tried before is of no use; it is taken if none is.
    pub(super) fn whole_copy(
        &self,
        id: ContentId,
        copies: &mut Copies,
        failure: &mut Option<PackError>,
        hash: impl Fn(&[u8]) -> ContentId,
    ) -> Result<Option<Vec<u8>>, PackError> {
        let mut last = None;
        for (pack, place) in copies.of(id) {
            match self.content_at(*pack, place, id, &hash) {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
        }
        let reasons = [last, failure.take(), copies.take_unreachable()];
        // A pack that is gone is one in which nothing is.
        match reasons.into_iter().flatten().find(|error| !error.is_gone()) {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// Returns whether the place of a chunk really holds it.
    pub(crate) fn holds_chunk(&self, id: ContentId, pack: PackId, place: &Place) -> bool {
        let keys = self.repository().keys();
        let found = self.content_at(pack, place, id, &|bytes| keys.chunk_id(bytes).into());
        matches!(found, Ok(Some(_)))
    }
}
