//! Copies that are dropped because another pack has the same content: the one that stays is read
//! first, so that no good copy goes for the sake of a rotten one.

use std::collections::BTreeMap;

use crate::id::ContentId;
use crate::repository::Contents;
use crate::spill::Sorter;

use super::census::{Census, Pack, Spot};
use super::{GcError, GcOptions};

/// Checks, for every live id of which a condemned pack holds a copy that will not be moved, that
/// the copy which stays is whole. Where it is not, the others are moved instead of dropped.
pub(super) fn check(
    contents: &Contents,
    census: &mut Census,
    live: &mut Sorter<ContentId>,
    goes: &[bool],
    options: &GcOptions<'_>,
) -> Result<(), GcError> {
    if !census.has_doubles {
        return Ok(());
    }
    // By pack and entry of the copy that stays: the copies that go.
    let mut doubles: BTreeMap<Spot, Vec<Spot>> = BTreeMap::new();
    census.join(live, |_, spots| {
        let Some((first, others)) = spots.split_first() else {
            return;
        };
        let going: Vec<Spot> = others
            .iter()
            .filter(|spot| goes[spot.pack as usize])
            .copied()
            .collect();
        if !going.is_empty() && !goes[first.pack as usize] {
            doubles.insert(*first, going);
        }
    })?;
    for (stays, going) in doubles {
        if options.cancel.is_cancelled() {
            return Err(GcError::Cancelled);
        }
        if !is_whole(contents, census.pack(stays.pack), stays.entry)? {
            for spot in going {
                if let Some(pack) = &mut census.packs[spot.pack as usize] {
                    pack.live.set(spot.entry);
                }
            }
        }
    }
    Ok(())
}

/// Returns whether an entry of a pack holds what its id says.
fn is_whole(contents: &Contents, pack: &Pack, entry: u32) -> Result<bool, GcError> {
    let content = contents.footer(pack.id)?.entry(entry);
    Ok(content.is_some_and(|(id, place)| contents.holds(pack.kind, id, pack.id, &place)))
}
