//! Takes what is whole out of damaged packs, whether a snapshot needs it or not: a writer may have
//! built on it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::compress::{Compressor, Decompressor};
use crate::format::pack::{Footer, FrameEntry, PackKind};
use crate::id::{ContentId, PackId};
use crate::pack::{Frame, Framer, PackContext, PackError, PackReader, PackSink, Packer};
use crate::repository::Contents;
use crate::storage::Session;

use super::scan::{DamagedPack, content_id};
use super::{RepairError, RepairOptions, RepairReport};

/// Copies what is whole in the damaged packs of the report into new packs.
///
/// # Durability
///
/// On return all copies are durable.
pub(super) fn salvage(
    contents: &Contents,
    session: &dyn Session,
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    for kind in [PackKind::Data, PackKind::Nodes] {
        let mut readers = Vec::new();
        for pack in report.damaged.iter().filter(|pack| pack.is_readable) {
            let reader = contents.footer(pack.id)?;
            if reader.header().kind == kind {
                readers.push((pack, reader));
            }
        }
        if readers.is_empty() {
            continue;
        }
        let mut mover = Mover::start(contents, session, kind)?;
        let mut moved = Ok(());
        for (pack, reader) in &readers {
            moved = mover.pack(pack, reader, options);
            if moved.is_err() {
                break;
            }
        }
        let stats = mover.packer.finish();
        report.salvaged += mover.count;
        // A packer that stopped knows why; what its caller met is only the consequence.
        let stats = stats?;
        moved?;
        report.written_packs += stats.packs.len() as u64;
        report.written_bytes += stats.stored_bytes;
    }
    Ok(())
}

/// Nobody has to be told of new packs: the repository is opened anew, and takes them in.
struct Forgetful;

impl PackSink for Forgetful {
    fn published(&self, _: PackId, _: &Footer) -> Result<(), PackError> {
        Ok(())
    }
}

struct Mover<'m> {
    contents: &'m Contents,
    kind: PackKind,
    packer: Packer,
    framer: Framer,
    decompressor: Decompressor,
    stored: Vec<u8>,
    plain: Vec<u8>,
    count: u64,
}

impl<'m> Mover<'m> {
    fn start(
        contents: &'m Contents,
        session: &dyn Session,
        kind: PackKind,
    ) -> Result<Self, RepairError> {
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
        let packer = Packer::start(context, kind, Arc::new(Forgetful));
        Ok(Self {
            contents,
            kind,
            packer: packer.map_err(RepairError::NoPacker)?,
            framer: Framer::new(Compressor::new(config.compression), config.frame_len),
            decompressor: Decompressor::new(),
            stored: Vec::new(),
            plain: Vec::new(),
            count: 0,
        })
    }

    fn pack(
        &mut self,
        pack: &DamagedPack,
        reader: &PackReader,
        options: &RepairOptions<'_>,
    ) -> Result<(), RepairError> {
        let bad: HashSet<ContentId> = pack.bad.iter().copied().collect();
        for (number, frame) in (0_u32..).zip(&reader.footer().frames) {
            if options.cancel.is_cancelled() {
                return Err(RepairError::Cancelled);
            }
            self.frame(reader, number, frame, &bad)?;
        }
        if let Some(frame) = self.framer.flush() {
            self.packer.send(frame)?;
        }
        Ok(())
    }

    fn frame(
        &mut self,
        reader: &PackReader,
        number: u32,
        frame: &FrameEntry,
        bad: &HashSet<ContentId>,
    ) -> Result<(), RepairError> {
        let entries = reader.footer().frame_entries(frame);
        let read = reader.read_frame(
            self.contents.repository().storage(),
            number,
            &mut self.decompressor,
            &mut self.stored,
            &mut self.plain,
        );
        match read {
            Ok(()) => {}
            // As the scan found it.
            Err(_) if entries.iter().all(|entry| bad.contains(&entry.id)) => return Ok(()),
            // What was whole before and is not now is no damage that was looked at.
            Err(error) => return Err(error.into()),
        }
        let mut good: Vec<(ContentId, Range<usize>)> = Vec::new();
        let mut at = 0;
        for entry in entries {
            let range = at..at + entry.len as usize;
            at = range.end;
            let bytes = self.plain.get(range.clone());
            let is_whole = |bytes| content_id(self.contents, self.kind, bytes) == entry.id;
            if bytes.is_some_and(is_whole) {
                good.push((entry.id, range));
            }
        }
        self.count += good.len() as u64;
        if good.len() == entries.len() {
            // Compressed as it is: only the seal is new.
            return Ok(self.packer.send(Frame {
                codec: frame.codec,
                plain_len: frame.plain_len,
                stored: std::mem::take(&mut self.stored),
                entries: entries.to_vec(),
            })?);
        }
        for (id, range) in good {
            if let Some(frame) = self.framer.add(id, &self.plain[range]) {
                self.packer.send(frame)?;
            }
        }
        Ok(())
    }
}
