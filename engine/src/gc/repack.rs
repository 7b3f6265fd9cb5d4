//! Repacking: what lives in packs that go is copied into new ones. Everything is decoded and
//! compared with its id first: what cannot be proven whole is not moved, and its pack stays.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::compress::{Compressor, Decompressor};
use crate::format::pack::{Footer, FrameEntry, PackKind};
use crate::id::{ContentId, PackId};
use crate::pack::{Frame, Framer, PackContext, PackError, PackReader, PackSink, Packer};
use crate::pool;
use crate::progress::Progress;
use crate::repository::Contents;
use crate::storage::Session;

use super::census::{Census, Pack};
use super::duplicates::hash;
use super::{GcError, GcOptions};

/// What was moved.
#[derive(Default)]
pub(super) struct Moved {
    /// Packs written.
    pub(super) packs: u64,
    /// Their stored bytes.
    pub(super) stored_bytes: u64,
    /// Numbers of packs that hold something that lives and is whole nowhere.
    pub(super) damaged: BTreeSet<u32>,
}

/// Copies what lives in the packs that go.
///
/// # Durability
///
/// On return all copies are durable.
pub(super) fn repack(
    contents: &Contents,
    session: &dyn Session,
    census: &Census,
    goes: &[bool],
    options: &GcOptions<'_>,
) -> Result<Moved, GcError> {
    let mut moved = Moved::default();
    for kind in [PackKind::Data, PackKind::Nodes] {
        let packs = (0_u32..).zip(&census.packs).zip(goes);
        let packs: Vec<(u32, &Pack)> = packs
            .filter_map(|((number, pack), goes)| Some((number, pack.as_ref().filter(|_| *goes)?)))
            .filter(|(_, pack)| pack.kind == kind && !pack.is_dead())
            .collect();
        if !packs.is_empty() {
            repack_kind(contents, session, kind, &packs, options, &mut moved)?;
        }
    }
    Ok(moved)
}

fn repack_kind(
    contents: &Contents,
    session: &dyn Session,
    kind: PackKind,
    packs: &[(u32, &Pack)],
    options: &GcOptions<'_>,
    moved: &mut Moved,
) -> Result<(), GcError> {
    let repository = contents.repository();
    let config = repository.config();
    let context = PackContext {
        storage: repository.storage().clone(),
        session: session.id(),
        keys: Arc::clone(repository.keys()),
        pack_len: config.pack_len,
        frame_len: config
            .frame_len
            .max(repository.chunker().cut_params().max()),
    };
    let packer = Packer::start(context, kind, Arc::new(Forgetful)).map_err(GcError::NoPacker)?;
    let damaged = Mutex::new(BTreeSet::new());
    let items = packs.iter().map(Ok::<_, GcError>);
    let done = pool::for_each(options.threads, "repack", items, || {
        let mut mover = Mover::new(contents, &packer, options);
        let damaged = &damaged;
        move |(number, pack): &(u32, &Pack)| {
            if !mover.move_pack(pack)? {
                let mut damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner);
                damaged.insert(*number);
            }
            Ok(())
        }
    });
    // A packer that stopped knows why; what its caller met is only the consequence.
    let stats = packer.finish()?;
    done?;
    moved.packs += stats.packs.len() as u64;
    moved.stored_bytes += stats.stored_bytes;
    let damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    moved.damaged.extend(damaged);
    Ok(())
}

/// Nobody has to be told of new packs: whoever opens the repository next takes them in.
struct Forgetful;

impl PackSink for Forgetful {
    fn published(&self, _: PackId, _: &Footer) -> Result<(), PackError> {
        Ok(())
    }
}

/// What one thread moves packs with.
struct Mover<'m, 'o> {
    contents: &'m Contents,
    packer: &'m Packer,
    options: &'m GcOptions<'o>,
    framer: Framer,
    decompressor: Decompressor,
    stored: Vec<u8>,
    plain: Vec<u8>,
}

impl<'m, 'o> Mover<'m, 'o> {
    fn new(contents: &'m Contents, packer: &'m Packer, options: &'m GcOptions<'o>) -> Self {
        let config = contents.repository().config();
        Self {
            contents,
            packer,
            options,
            framer: Framer::new(Compressor::new(config.compression), config.frame_len),
            decompressor: Decompressor::new(),
            stored: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// Moves what lives in a pack; returns whether all of that could be had.
    fn move_pack(&mut self, pack: &Pack) -> Result<bool, GcError> {
        let reader = self.contents.footer(pack.id)?;
        let mut is_whole = true;
        for (number, frame) in (0_u32..).zip(&reader.footer().frames) {
            if !frame.chunks.clone().any(|entry| pack.live.get(entry)) {
                continue;
            }
            if self.options.cancel.is_cancelled() {
                return Err(GcError::Cancelled);
            }
            if let Some(limit) = self.options.limit {
                let taken = limit.take(u64::from(frame.stored_len), self.options.cancel);
                taken.map_err(|_| GcError::Cancelled)?;
            }
            is_whole &= self.move_frame(pack, &reader, number, frame)?;
        }
        if let Some(frame) = self.framer.flush() {
            self.packer.send(frame)?;
        }
        Ok(is_whole)
    }

    fn move_frame(
        &mut self,
        pack: &Pack,
        reader: &PackReader,
        number: u32,
        frame: &FrameEntry,
    ) -> Result<bool, GcError> {
        let read = reader.read_frame(
            self.contents.repository().storage(),
            number,
            &mut self.decompressor,
            &mut self.stored,
            &mut self.plain,
        );
        match read {
            Ok(()) => {}
            Err(error) if error.is_shortage() => return Err(error.into()),
            Err(_) => self.plain.clear(),
        }
        Progress::add(
            &self.options.progress.done_bytes,
            u64::from(frame.stored_len),
        );
        let entries = reader.footer().frame_entries(frame);
        let mut bad: HashSet<ContentId> = HashSet::new();
        let mut good: Vec<(ContentId, Range<usize>)> = Vec::new();
        let mut at = 0;
        for (entry, content) in frame.chunks.clone().zip(entries) {
            let range = at..at + content.len as usize;
            at = range.end;
            if !pack.live.get(entry) {
                continue;
            }
            let bytes = self.plain.get(range.clone());
            let found = bytes.map(|bytes| hash(self.contents, pack.kind, bytes));
            match found == Some(content.id) {
                true => good.push((content.id, range)),
                false => drop(bad.insert(content.id)),
            }
        }
        if good.len() == entries.len() {
            // Compressed as it is: only the seal is new.
            let whole = Frame {
                codec: frame.codec,
                plain_len: frame.plain_len,
                stored: std::mem::take(&mut self.stored),
                entries: entries.to_vec(),
            };
            self.packer.send(whole)?;
            return Ok(true);
        }
        for (id, range) in good {
            if let Some(frame) = self.framer.add(id, &self.plain[range]) {
                self.packer.send(frame)?;
            }
        }
        self.move_copies(pack.kind, bad)
    }

    /// Moves what is not whole where it was from wherever it is; returns whether all was found.
    fn move_copies(&mut self, kind: PackKind, ids: HashSet<ContentId>) -> Result<bool, GcError> {
        if ids.is_empty() {
            return Ok(true);
        }
        let contents = self.contents;
        let mut is_whole = true;
        let copies = contents.copies(&ids)?;
        for id in ids {
            let bytes = contents.any_copy(id, &copies, |bytes| hash(contents, kind, bytes));
            match bytes {
                None => is_whole = false,
                Some(bytes) => {
                    if let Some(frame) = self.framer.add(id, &bytes) {
                        self.packer.send(frame)?;
                    }
                }
            }
        }
        Ok(is_whole)
    }
}
