//! Copies that are dropped because another pack has the same content: the one that stays is read
//! first, so that no good copy goes for the sake of a rotten one.

use std::collections::BTreeMap;

use crate::compress::Decompressor;
use crate::format::pack::PackKind;
use crate::id::{ContentId, NodeId};
use crate::pack::PackReader;
use crate::repository::Contents;
use crate::spill::Sorter;

use super::census::{Census, Spot};
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
    let mut reader: Option<(u32, std::sync::Arc<PackReader>)> = None;
    for (stays, going) in doubles {
        if options.cancel.is_cancelled() {
            return Err(GcError::Cancelled);
        }
        let held = reader.take().filter(|(pack, _)| *pack == stays.pack);
        let held = match held {
            Some((_, held)) => held,
            None => contents.footer(census.pack(stays.pack).id)?,
        };
        if !is_whole(contents, &held, stays.entry) {
            for spot in going {
                if let Some(pack) = &mut census.packs[spot.pack as usize] {
                    pack.live.set(spot.entry);
                }
            }
        }
        reader = Some((stays.pack, held));
    }
    Ok(())
}

/// Returns whether an entry of a pack holds what its id says.
fn is_whole(contents: &Contents, reader: &PackReader, entry: u32) -> bool {
    let footer = reader.footer();
    let number = footer
        .frames
        .partition_point(|frame| frame.chunks.end <= entry);
    let Some(frame) = footer.frames.get(number) else {
        return false;
    };
    let mut plain = Vec::new();
    let storage = contents.repository().storage();
    let number = u32::try_from(number).expect("bounded by PACK_FRAMES_MAX");
    let read = reader.read_frame(
        storage,
        number,
        &mut Decompressor::new(),
        &mut Vec::new(),
        &mut plain,
    );
    if read.is_err() {
        return false;
    }
    let mut at = 0;
    for (number, content) in frame.chunks.clone().zip(footer.frame_entries(frame)) {
        let end = at + content.len as usize;
        if number == entry {
            let bytes = plain.get(at..end).unwrap_or_default();
            return hash(contents, reader.header().kind, bytes) == content.id;
        }
        at = end;
    }
    false
}

/// Returns the id of content, by the kind of pack that holds it.
pub(super) fn hash(contents: &Contents, kind: PackKind, bytes: &[u8]) -> ContentId {
    let keys = contents.repository().keys();
    match kind {
        PackKind::Data => keys.chunk_id(bytes).into(),
        PackKind::Nodes => {
            let id: NodeId = keys.node_id(bytes);
            id.into()
        }
    }
}
