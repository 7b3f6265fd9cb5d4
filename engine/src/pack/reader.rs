//! Reads packs: footers, frames, and whole packs from end to end.

use super::PackError;
use crate::compress::Decompressor;
use crate::crypto::{FileSeal, Keys};
use crate::format::FormatError;
use crate::format::pack::{Footer, FrameEntry, PackHeader, Trailer};
use crate::id::PackId;
use crate::limits;
use crate::storage::{Name, SharedStorage};

/// How much of a pack's end is read at first: the footer of most packs is shorter.
const TAIL_LEN: u64 = 256 * limits::KIB;

/// Reads and checks a pack's header, trailer and footer.
///
/// Does not re-hash the pack: the footer has a hash of its own.
pub fn read_footer(
    storage: &SharedStorage,
    keys: &Keys,
    pack: PackId,
) -> Result<PackReader, PackError> {
    let name = Name::Pack(pack);
    let damaged = |source| PackError::Damaged { pack, source };
    let len = storage.len(&name)?;
    let parts = (PackHeader::LEN + Trailer::LEN) as u64;
    if len < parts {
        let what = "pack";
        return Err(damaged(FormatError::Truncated {
            what,
            needed: parts,
            had: len,
        }));
    }
    let mut header_bytes = [0; PackHeader::LEN];
    storage.read_at(&name, 0, &mut header_bytes)?;

    let tail_start = len - TAIL_LEN.min(len - PackHeader::LEN as u64);
    let mut tail = vec![0; usize::try_from(len - tail_start).expect("at most TAIL_LEN")];
    storage.read_at(&name, tail_start, &mut tail)?;
    let (before, trailer) = tail.split_at(tail.len() - Trailer::LEN);
    let trailer = Trailer::decode(trailer).map_err(damaged)?;
    let stored_footer = trailer.footer_range(len).map_err(damaged)?;
    let footer_len = trailer.footer_len as usize;
    let mut stored = if footer_len <= before.len() {
        before[before.len() - footer_len..].to_vec()
    } else {
        let mut stored = vec![0; footer_len];
        storage.read_at(&name, stored_footer.start, &mut stored)?;
        stored
    };
    // Before the header is read: a flipped bit in it must not look like a newer version.
    trailer.check(&header_bytes, &stored).map_err(damaged)?;
    let header = PackHeader::decode(&header_bytes, keys.is_sealed()).map_err(damaged)?;
    let seal = keys.file(header.kind.file_kind(), &header.salt);
    let plain = seal.open(FileSeal::FOOTER, &mut stored).map_err(damaged)?;
    let frames_len = stored_footer.start - PackHeader::LEN as u64;
    let footer = Footer::decode(&header, frames_len, plain).map_err(damaged)?;
    Ok(PackReader {
        pack,
        header,
        footer,
        seal,
        stored_len: len,
    })
}

/// A pack whose footer was read and checked.
pub struct PackReader {
    pack: PackId,
    header: PackHeader,
    footer: Footer,
    seal: FileSeal,
    stored_len: u64,
}

impl PackReader {
    /// Returns the pack's name.
    pub fn id(&self) -> PackId {
        self.pack
    }

    /// Returns the pack's header.
    pub fn header(&self) -> &PackHeader {
        &self.header
    }

    /// Returns what the pack holds.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Returns the pack's stored length.
    pub fn stored_len(&self) -> u64 {
        self.stored_len
    }

    /// Returns a frame's entry.
    pub fn frame(&self, frame: u32) -> Option<&FrameEntry> {
        self.footer.frames.get(frame as usize)
    }

    /// Reads and decodes one frame. What is in it still has to be compared with its ids. `scratch`
    /// then holds the frame as it was before it was sealed.
    pub fn read_frame(
        &self,
        storage: &SharedStorage,
        frame: u32,
        decompressor: &mut Decompressor,
        scratch: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<(), PackError> {
        let rule = "a pack has not so many frames";
        let entry = self.frame(frame).ok_or(PackError::DamagedFrame {
            pack: self.pack,
            frame,
            source: FormatError::Malformed { rule },
        })?;
        scratch.resize(entry.stored_len as usize, 0);
        storage.read_at(&Name::Pack(self.pack), entry.offset, scratch)?;
        let opened = self.decode_frame(frame, scratch, decompressor, plain)?;
        scratch.truncate(opened);
        Ok(())
    }

    /// Does the same straight to where the bytes are wanted. `plain` has the frame's plain length;
    /// after a failure it may hold anything.
    pub(crate) fn read_frame_to(
        &self,
        storage: &SharedStorage,
        frame: u32,
        decompressor: &mut Decompressor,
        scratch: &mut Vec<u8>,
        plain: &mut [u8],
    ) -> Result<(), PackError> {
        let damaged = |source| PackError::DamagedFrame {
            pack: self.pack,
            frame,
            source,
        };
        let rule = "a pack has not so many frames";
        let entry = self
            .frame(frame)
            .ok_or(damaged(FormatError::Malformed { rule }))?;
        scratch.resize(entry.stored_len as usize, 0);
        storage.read_at(&Name::Pack(self.pack), entry.offset, scratch)?;
        let opened = self.seal.open(u64::from(frame), scratch).map_err(damaged)?;
        decompressor
            .decompress_to(entry.codec, opened, plain)
            .map_err(damaged)
    }

    /// Decodes a frame whose stored bytes were read already; they are opened in place. Returns
    /// their length without the seal.
    pub fn decode_frame(
        &self,
        frame: u32,
        stored: &mut [u8],
        decompressor: &mut Decompressor,
        plain: &mut Vec<u8>,
    ) -> Result<usize, PackError> {
        let damaged = |source| PackError::DamagedFrame {
            pack: self.pack,
            frame,
            source,
        };
        let rule = "a pack has not so many frames";
        let entry = self
            .frame(frame)
            .ok_or(damaged(FormatError::Malformed { rule }))?;
        let opened = self.seal.open(u64::from(frame), stored).map_err(damaged)?;
        plain.clear();
        decompressor
            .decompress(entry.codec, opened, entry.plain_len, plain)
            .map_err(damaged)?;
        Ok(opened.len())
    }
}
