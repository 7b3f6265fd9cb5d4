//! Where a pack's contents are, as the index records it.

use std::ops::Range;

use super::PackReader;
use crate::format::pack::{Footer, FooterEntry};
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
            slots
                .iter()
                .enumerate()
                .map(move |(slot, content)| (content.id, place(pack, frame, slot, content)))
        })
}

fn place(pack: PackId, frame: usize, slot: usize, content: &FooterEntry) -> Place {
    Place {
        pack: PackPrefix::of(pack),
        frame: u16::try_from(frame).expect("checked against PACK_FRAMES_MAX"),
        slot: u16::try_from(slot).expect("checked against FRAME_CHUNKS_MAX"),
        len: content.len,
    }
}

impl PackReader {
    /// Returns what the footer's entry of this number is, and its place.
    pub(crate) fn entry(&self, number: u32) -> Option<(ContentId, Place)> {
        let frames = &self.footer().frames;
        let frame = frames.partition_point(|frame| frame.chunks.end <= number);
        let entry = frames.get(frame)?;
        let slot = number.checked_sub(entry.chunks.start)? as usize;
        let content = self.footer().frame_entries(entry).get(slot)?;
        Some((content.id, place(self.id(), frame, slot, content)))
    }

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
