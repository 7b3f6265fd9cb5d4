//! Finding chunks: in what this process added, in the database, and at last in every footer.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use super::db::{BATCH, Db};
use super::{Index, IndexError, PackFooters, PackPrefix, Place, take_in};
use crate::id::{ContentId, PackId};

/// What a search of every pack present has found.
#[derive(Debug)]
pub struct Anywhere<E> {
    /// Every pack that holds an id, and the place there. Ids that none holds are left out.
    pub found: HashMap<ContentId, Vec<(PackId, Place)>>,
    /// Packs whose footers could not be read; what is missing may lie there.
    pub unreadable: Vec<(PackId, E)>,
}

impl Index {
    /// Returns where chunks lie, in the order asked: places in packs that are present. A chunk
    /// that lies in several packs has one answer.
    ///
    /// `None` is no proof that a chunk is missing, only [`find_anywhere`] gives that: an
    /// entry of a damaged database counts as absent, and [`Self::is_damaged`] says so.
    ///
    /// # Errors
    ///
    /// Fails only if the private files in `temp_dir` cannot be read.
    pub fn find(&self, ids: &[ContentId]) -> Result<Vec<Option<Place>>, IndexError> {
        self.find_outside(ids, &HashSet::new())
    }

    /// Returns the same, but places in no pack of `barred`.
    ///
    /// # Errors
    ///
    /// As [`Self::find`].
    pub fn find_outside(
        &self,
        ids: &[ContentId],
        barred: &HashSet<PackPrefix>,
    ) -> Result<Vec<Option<Place>>, IndexError> {
        let state = self.read();
        let counts = |place: &Place| {
            state.packs.is_present(place.pack)
                && (barred.is_empty() || !barred.contains(&place.pack))
        };
        let mut found = vec![None; ids.len()];
        let mut wanted = Vec::new();
        for (slot, id) in ids.iter().enumerate() {
            match state.overlay.in_memory(*id) {
                Some(place) if counts(&place) => found[slot] = Some(place),
                _ => wanted.push((*id, slot)),
            }
        }
        wanted.sort_unstable();
        if let Some(db) = state.overlay.private() {
            match look_up(db, &counts, &wanted, &mut found) {
                Some(failed) => return Err(failed),
                None => wanted.retain(|(_, slot)| found[*slot].is_none()),
            }
        }
        if let Some(db) = &state.db
            && look_up(db, &counts, &wanted, &mut found).is_some()
        {
            self.condemn();
        }
        Ok(found)
    }

    /// Returns the pack present that has this prefix; `None` also if there are two.
    pub fn pack(&self, prefix: PackPrefix) -> Option<PackId> {
        self.read().packs.id(prefix)
    }
}

/// Searches the footers of `packs`, once, for every copy of `ids`: what the index lacks, or knows
/// in a place that is of no use. Slow; must come before anyone says that a chunk is missing. Holds
/// the places of `ids` in memory, and a handful of footers.
///
/// # Errors
///
/// None of its own; packs that cannot be read are listed.
pub fn find_anywhere<F: PackFooters>(
    packs: &[PackId],
    ids: &HashSet<ContentId>,
    footers: &F,
) -> Result<Anywhere<F::Error>, IndexError> {
    let (mut found, mut unreadable) = (HashMap::new(), Vec::new());
    take_in::read_footers(packs, footers, |pack, places| {
        match places {
            Err(failed) => unreadable.push((pack, failed)),
            Ok(places) => {
                for (id, place) in places.into_iter().filter(|(id, _)| ids.contains(id)) {
                    let copies: &mut Vec<_> = found.entry(id).or_default();
                    copies.push((pack, place));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Anywhere { found, unreadable })
}

/// Looks up `wanted`, sorted by id, and notes each place at the slot that stands beside the id.
/// Returns the last failure; entries that cannot be read count as absent.
fn look_up(
    db: &Db,
    counts: &impl Fn(&Place) -> bool,
    wanted: &[(ContentId, usize)],
    found: &mut [Option<Place>],
) -> Option<IndexError> {
    let mut failure = None;
    let groups: Vec<_> = wanted.chunk_by(|a, b| a.0 == b.0).collect();
    for groups in groups.chunks(BATCH) {
        let ids: Vec<_> = groups.iter().map(|group| group[0].0).collect();
        for (group, answer) in groups.iter().zip(db.get(&ids)) {
            let place = answer.and_then(|first| match first {
                Some(place) if !counts(&place) => {
                    let others = db.others(group[0].0)?;
                    Ok(others.into_iter().find(counts))
                }
                first => Ok(first),
            });
            match place {
                Ok(place) => group.iter().for_each(|(_, slot)| found[*slot] = place),
                Err(failed) => failure = Some(failed),
            }
        }
    }
    failure
}
