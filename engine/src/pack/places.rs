//! Where a pack's contents are, as the index records it.

use std::ops::Range;

use super::PackReader;
use crate::format::pack::Footer;
use crate::id::{ContentId, PackId};
use crate::index::{PackPrefix, Place};

/// Returns the place of everything that a pack holds.
pub fn places_in(pack: PackId, footer: &Footer) -> impl Iterator<Item = (ContentId, Place)> {
    footer
        .frames
        .iter()
        .enumerate()
        .flat_map(move |(frame, entry)| {
            let slots = footer.frame_entries(entry);
            slots.iter().enumerate().map(move |(slot, content)| {
                let place = Place {
                    pack: PackPrefix::of(pack),
                    frame: u16::try_from(frame).expect("checked against PACK_FRAMES_MAX"),
                    slot: u16::try_from(slot).expect("checked against FRAME_CHUNKS_MAX"),
                    len: content.len,
                };
                (content.id, place)
            })
        })
}

impl PackReader {
    /// Returns the plain bytes, within its frame, of the content that should be at a place; `None`
    /// where the footer names other content there, or none.
    pub fn slot_range(&self, place: &Place, id: ContentId) -> Option<Range<usize>> {
        let frame = self.frame(u32::from(place.frame))?;
        let slots = self.footer().frame_entries(frame);
        let entry = slots.get(usize::from(place.slot))?;
        if entry.id != id {
            return None;
        }
        let before = slots.get(..usize::from(place.slot))?;
        let start = before.iter().map(|entry| entry.len as usize).sum();
        Some(start..start + entry.len as usize)
    }
}
