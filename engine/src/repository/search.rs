//! The slow way to content: what the index does not know, or knows in a place that turned out bad,
//! is looked for in the footers of all packs, which are listed anew. Comes before anyone says that
//! something is missing.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};

use super::contents::{FooterSource, list_packs};
use super::{Contents, RepositoryError};
use crate::format::pack::PackKind;
use crate::id::{ContentId, PackId};
use crate::index::{PackFooters, PackPrefix, Place, find_anywhere};
use crate::pack::PackError;

/// Lists of the packs in a row that have to show nothing new before it is said that something is
/// missing. A collection that moves content and deletes the pack where it was, both while the packs
/// are being listed, folder by folder, hides it from one list; hiding it from all takes a
/// collection within each.
const QUIET_LISTS: usize = 2;

/// Every copy that the footers of all packs name of some ids.
#[derive(Default)]
pub struct Copies {
    ids: HashSet<ContentId>,
    places: HashMap<ContentId, Vec<(PackId, Place)>>,
    /// The packs that were looked into.
    packs: HashSet<PackId>,
    /// Packs of these that are not there any more, and had nothing that is not where it moved to.
    gone: HashSet<PackId>,
    /// The first pack that is out of reach, which is no proof that it holds nothing.
    unreachable: Option<PackError>,
}

impl Copies {
    /// Returns where copies of an id lie. What is there still has to be compared with the id.
    pub fn of(&self, id: ContentId) -> &[(PackId, Place)] {
        self.places.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Returns whether a pack was there when copies were looked for.
    pub(crate) fn has_seen(&self, pack: PackId) -> bool {
        self.packs.contains(&pack)
    }

    /// Returns why nobody can say that an id without copies is missing, if so.
    pub fn take_unreachable(&mut self) -> Option<PackError> {
        self.unreachable.take()
    }
}

/// Returns why content is not to be had of all that went wrong: a pack out of reach, of which
/// nobody can say that it has no whole copy, comes before damage. A pack that is gone is one in
/// which nothing is: `None` where there is no other reason.
pub(crate) fn weightiest<E: Borrow<PackError>>(reasons: Vec<E>) -> Option<E> {
    let open = reasons.iter().position(|error| !error.borrow().is_loss());
    let known = || reasons.iter().position(|error| !error.borrow().is_gone());
    let at = open.or_else(known)?;
    reasons.into_iter().nth(at)
}

impl Contents {
    /// Finds every copy of `ids`: lists the packs again, and reads all their footers once. While
    /// an id has no copy, lists them until nothing new comes.
    pub fn copies(&self, ids: &HashSet<ContentId>) -> Result<Copies, RepositoryError> {
        let mut copies = Copies {
            ids: ids.clone(),
            ..Copies::default()
        };
        let packs = self.refresh()?;
        self.look_into(&mut copies, packs)?;
        if ids.iter().any(|id| copies.of(*id).is_empty()) {
            self.follow(&mut copies)?;
        }
        Ok(copies)
    }

    /// Looks into packs that have come since copies were looked for, until none come any more.
    /// Returns whether any came.
    fn follow(&self, copies: &mut Copies) -> Result<bool, RepositoryError> {
        let (mut has_news, mut quiet) = (false, 0);
        while quiet < QUIET_LISTS {
            let mut packs = self.refresh()?;
            packs.retain(|pack| !copies.has_seen(*pack));
            match packs.is_empty() {
                true => quiet += 1,
                false => (has_news, quiet) = (true, 0),
            }
            self.look_into(copies, packs)?;
        }
        Ok(has_news)
    }

    fn look_into(&self, copies: &mut Copies, packs: Vec<PackId>) -> Result<(), RepositoryError> {
        // Past the cache of footers, which one pass over all packs would empty for nothing.
        let footers = FooterSource::to_look(self.repository());
        let anywhere = find_anywhere(&packs, &copies.ids, &footers)?;
        for (id, found) in anywhere.found {
            copies.places.entry(id).or_default().extend(found);
        }
        // What a pack cannot give back is not to be had from it; all other reasons leave it open.
        let errors = anywhere.unreadable.into_iter().map(|(_, error)| error);
        let unreachable = errors.into_iter().find(|error| !error.is_loss());
        copies.unreachable = copies.unreachable.take().or(unreachable);
        copies.packs.extend(packs);
        Ok(())
    }

    /// Lists the packs again, and takes in those that have come since: a collection that repacks
    /// while this session reads moves into new packs what it wants. Returns all that are there.
    fn refresh(&self) -> Result<Vec<PackId>, RepositoryError> {
        let listed = list_packs(self.repository())?;
        let known = self.packs();
        let known: HashSet<&PackId> = known.iter().collect();
        let footers = FooterSource::for_index(self.repository(), self.index().options());
        let mut failure = None;
        let mut packs = listed.clone();
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
        failure.map_or(Ok(listed), |failure| Err(failure.into()))
    }

    /// Returns content whose hash is right from one of its copies; `None` where nobody has it.
    /// `failure` is why a copy that was tried before is of no use; it is taken if none is.
    pub(crate) fn whole_copy(
        &self,
        id: ContentId,
        copies: &mut Copies,
        failure: &mut Option<PackError>,
        hash: impl Fn(&[u8]) -> ContentId,
    ) -> Result<Option<Vec<u8>>, RepositoryError> {
        loop {
            let mut reasons = Vec::from_iter(failure.take());
            let mut gone = Vec::new();
            for (pack, place) in copies.of(id) {
                match self.content_at(*pack, place, id, &hash) {
                    Ok(Some(bytes)) => return Ok(Some(bytes)),
                    Ok(None) => {}
                    Err(error) => {
                        gone.extend(error.is_gone().then_some(*pack));
                        reasons.push(error);
                    }
                }
            }
            // A pack that went since it was looked into: what lived in it is in another one.
            let has_moved = gone.iter().any(|pack| !copies.gone.contains(pack));
            if has_moved && self.follow(copies)? {
                copies.gone.extend(gone);
                continue;
            }
            copies.gone.extend(gone);
            reasons.extend(copies.take_unreachable());
            return Ok(weightiest(reasons).map_or(Ok(None), Err)?);
        }
    }

    /// Returns whether the place of content really holds it.
    pub(crate) fn holds(&self, kind: PackKind, id: ContentId, pack: PackId, place: &Place) -> bool {
        let keys = self.repository().keys();
        let found = self.content_at(pack, place, id, &|bytes| keys.content_id(kind, bytes));
        matches!(found, Ok(Some(_)))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::storage::{Name, StorageError};

    #[test]
    fn a_pack_out_of_reach_outweighs_damage_and_damage_what_is_gone() {
        let pack = PackId::from_bytes([7; 32]);
        let gone = || PackError::Storage(StorageError::NotFound(Name::Pack(pack)));
        let damaged = || PackError::DamagedContent {
            pack,
            frame: 0,
            content: ContentId::from_bytes([1; 32]),
        };
        let unreachable = || {
            PackError::Storage(StorageError::Io {
                op: "read",
                object: "packs/07".to_owned(),
                source: io::ErrorKind::TimedOut.into(),
            })
        };
        assert!(weightiest::<PackError>(Vec::new()).is_none());
        assert!(weightiest(vec![gone(), gone()]).is_none());
        let found = weightiest(vec![gone(), damaged()]).expect("damage is a reason");
        assert!(found.is_damage());
        let found = weightiest(vec![damaged(), gone(), unreachable()]).expect("there are reasons");
        assert!(!found.is_loss());
    }
}
