//! Moves content from pack to pack: what a collection keeps, and what a repair salvages. Everything
//! is decoded and compared with its id first; what is whole goes on as it is compressed.

use std::ops::Range;
use std::sync::Arc;

use super::{Contents, Repository};
use crate::compress::{Compressor, Decompressor};
use crate::format::pack::{Footer, PackKind};
use crate::id::{ContentId, PackId, SessionId};
use crate::pack::{Frame, Framer, PackContext, PackError, PackReader, PackSink, Packer};

/// Nobody has to be told of new packs: whoever opens the repository next takes them in.
struct Forgetful;

impl PackSink for Forgetful {
    fn published(&self, _: PackId, _: &Footer) -> Result<(), PackError> {
        Ok(())
    }
}

impl Repository {
    /// Returns what every pack of a session is written with.
    pub(super) fn pack_context(&self, session: SessionId) -> PackContext {
        let config = self.config();
        PackContext {
            storage: self.storage().clone(),
            session,
            keys: Arc::clone(self.keys()),
            pack_len: config.pack_len,
            frame_len: config.frame_len.max(self.chunker().cut_params().max()),
            parity_percent: config.parity_percent,
        }
    }

    /// Returns a framer that is set as the repository is.
    pub(super) fn framer(&self) -> Framer {
        let config = self.config();
        Framer::new(Compressor::new(config.compression), config.frame_len)
    }

    /// Starts the threads that write what is moved.
    pub(crate) fn start_packer(
        &self,
        session: SessionId,
        kind: PackKind,
    ) -> std::io::Result<Packer> {
        Packer::start(self.pack_context(session), kind, Arc::new(Forgetful))
    }
}

/// What one thread moves content with.
pub(crate) struct Mover<'m> {
    contents: &'m Contents,
    packer: &'m Packer,
    framer: Framer,
    decompressor: Decompressor,
    stored: Vec<u8>,
    plain: Vec<u8>,
}

/// What became of a frame.
pub(crate) struct MovedFrame {
    /// How many contents were moved.
    pub(crate) moved: usize,
    /// The wanted contents that are not whole there.
    pub(crate) bad: Vec<ContentId>,
    /// Why the frame could not be read at all.
    pub(crate) failure: Option<PackError>,
}

impl<'m> Mover<'m> {
    /// Returns a mover that hands frames to `packer`.
    pub(crate) fn new(contents: &'m Contents, packer: &'m Packer) -> Self {
        Self {
            contents,
            packer,
            framer: contents.repository().framer(),
            decompressor: Decompressor::new(),
            stored: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// Moves those entries of a frame, by their numbers in the footer, that are `wanted` and whole.
    pub(crate) fn frame(
        &mut self,
        reader: &PackReader,
        number: u32,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<MovedFrame, PackError> {
        let storage = self.contents.repository().storage();
        let (decompressor, stored) = (&mut self.decompressor, &mut self.stored);
        let read = reader.read_frame(storage, number, decompressor, stored, &mut self.plain);
        if read.is_err() {
            self.plain.clear();
        }
        let mut done = MovedFrame {
            moved: 0,
            bad: Vec::new(),
            failure: read.err(),
        };
        let Some(frame) = reader.frame(number) else {
            return Ok(done);
        };
        let (keys, kind) = (self.contents.repository().keys(), reader.header().kind);
        let entries = reader.footer().frame_entries(frame);
        let mut good: Vec<(ContentId, Range<usize>)> = Vec::new();
        let mut at = 0;
        for (entry, content) in frame.chunks.clone().zip(entries) {
            let range = at..at + content.len as usize;
            at = range.end;
            if !wanted(entry) {
                continue;
            }
            let bytes = self.plain.get(range.clone());
            match bytes.is_some_and(|bytes| keys.content_id(kind, bytes) == content.id) {
                true => good.push((content.id, range)),
                false => done.bad.push(content.id),
            }
        }
        done.moved = good.len();
        if good.len() == entries.len() {
            // Compressed as it is: only the seal is new.
            self.packer.send(Frame {
                codec: frame.codec,
                plain_len: frame.plain_len,
                stored: std::mem::take(&mut self.stored),
                entries: entries.to_vec(),
            })?;
            return Ok(done);
        }
        for (id, range) in good {
            if let Some(frame) = self.framer.add(id, &self.plain[range]) {
                self.packer.send(frame)?;
            }
        }
        Ok(done)
    }

    /// Adds content that was found elsewhere.
    pub(crate) fn add(&mut self, id: ContentId, bytes: &[u8]) -> Result<(), PackError> {
        match self.framer.add(id, bytes) {
            Some(frame) => self.packer.send(frame),
            None => Ok(()),
        }
    }

    /// Hands over what is left of a pack.
    pub(crate) fn flush(&mut self) -> Result<(), PackError> {
        match self.framer.flush() {
            Some(frame) => self.packer.send(frame),
            None => Ok(()),
        }
    }
}
