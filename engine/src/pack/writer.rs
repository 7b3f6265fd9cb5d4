//! Writes one pack.

use std::sync::Arc;

use super::{Frame, PackError, make_parity};
use crate::crypto::{FileSeal, Keys};
use crate::format::Salt;
use crate::format::pack::{Footer, FooterEntry, FrameEntry, PackHeader, PackKind, Trailer};
use crate::format::parity::ParityLayout;
use crate::id::{PackId, SessionId};
use crate::limits;
use crate::storage::{Name, SharedStorage, Upload};

/// What every pack of a session is written with.
#[derive(Clone)]
pub struct PackContext {
    /// Where packs go.
    pub storage: SharedStorage,
    /// Whose unfinished files they are until they have their names.
    pub session: SessionId,
    /// Hashes and seals.
    pub keys: Arc<Keys>,
    /// Stored length at which a pack is sealed.
    pub pack_len: u64,
    /// Plain length that frames are filled to, or that of the largest chunk if that is longer.
    pub frame_len: u32,
    /// How much parity every pack gets, in percent of it.
    pub parity_percent: Option<u8>,
}

/// A pack whose bytes are all written, but which has no name yet.
pub struct SealedPack {
    id: PackId,
    stored_len: u64,
    footer: Footer,
    upload: Box<dyn Upload>,
    storage: SharedStorage,
    session: SessionId,
    parity: Option<ParityLayout>,
}

/// A pack that is being written. Dropping it leaves nothing.
///
/// After an error it refuses all later calls, since the upload does.
pub struct PackWriter {
    header: PackHeader,
    upload: Box<dyn Upload>,
    hasher: blake3::Hasher,
    seal: FileSeal,
    frames: Vec<FrameEntry>,
    entries: Vec<FooterEntry>,
    offset: u64,
    context: PackContext,
}

impl PackWriter {
    /// Begins a pack, under a salt of its own.
    pub fn begin(context: &PackContext, kind: PackKind) -> Result<Self, PackError> {
        let header = PackHeader {
            kind,
            sealed: context.keys.is_sealed(),
            salt: Salt::draw(),
        };
        let mut writer = Self {
            header,
            upload: context.storage.upload(context.session)?,
            hasher: blake3::Hasher::new(),
            seal: context.keys.file(kind.file_kind(), &header.salt),
            frames: Vec::new(),
            entries: Vec::new(),
            offset: 0,
            context: context.clone(),
        };
        writer.append(&header.encode())?;
        Ok(writer)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.upload.write(bytes)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Returns whether the pack should be sealed before a frame of so many pieces is added.
    pub fn is_full(&self, next_entries: usize) -> bool {
        !self.frames.is_empty()
            && (self.offset >= self.context.pack_len
                || self.frames.len() >= limits::PACK_FRAMES_MAX
                || self.entries.len() + next_entries > limits::PACK_CHUNKS_MAX)
    }

    /// Seals and appends a frame. Nothing is durable until [`SealedPack::publish`] returns.
    pub fn add(&mut self, frame: Frame) -> Result<(), PackError> {
        let Frame {
            codec,
            plain_len,
            mut stored,
            entries,
        } = frame;
        self.seal.seal(self.frames.len() as u64, &mut stored);
        let first = u32::try_from(self.entries.len()).expect("bounded by PACK_CHUNKS_MAX");
        self.entries.extend(entries);
        let end = u32::try_from(self.entries.len()).expect("bounded by PACK_CHUNKS_MAX");
        self.frames.push(FrameEntry {
            offset: self.offset,
            stored_len: u32::try_from(stored.len()).expect("bounded by FRAME_STORED_LEN_MAX"),
            plain_len,
            codec,
            chunks: first..end,
        });
        self.append(&stored)
    }

    /// Writes footer and trailer.
    pub fn seal(mut self) -> Result<SealedPack, PackError> {
        let frames = std::mem::take(&mut self.frames);
        let entries = std::mem::take(&mut self.entries);
        let footer = Footer {
            kind: self.header.kind,
            frames,
            entries,
        };
        let mut stored = footer
            .encode(&self.header)
            .expect("what was added keeps to the limits of the format");
        self.seal.seal(FileSeal::FOOTER, &mut stored);
        let trailer = Trailer::new(&self.header.encode(), &stored).encode();
        self.append(&stored)?;
        self.append(&trailer)?;
        let id = PackId::from_bytes(*self.hasher.finalize().as_bytes());
        let stored_len = self.offset;
        let layout = |percent| {
            let layout = ParityLayout::new(stored_len, percent);
            layout.expect("a pack and a config keep to the limits of the format")
        };
        Ok(SealedPack {
            id,
            stored_len,
            footer,
            upload: self.upload,
            parity: self.context.parity_percent.map(layout),
            storage: self.context.storage,
            session: self.context.session,
        })
    }
}

impl SealedPack {
    /// Returns the pack's stored length, footer and all.
    pub fn stored_len(&self) -> u64 {
        self.stored_len
    }

    /// Returns the length of the parity that it gets.
    pub fn parity_len(&self) -> u64 {
        self.parity.map_or(0, |layout| layout.file_len())
    }

    /// Gives the pack its name, and returns its footer. Its parity comes after it: so where there
    /// is parity and no pack, the pack was deleted.
    ///
    /// # Durability
    ///
    /// Durable on return, with its parity.
    pub fn publish(self) -> Result<(PackId, Footer), PackError> {
        self.upload.finish(&Name::Pack(self.id))?;
        if let Some(layout) = self.parity {
            make_parity(&self.storage, self.session, self.id, layout)?;
        }
        Ok((self.id, self.footer))
    }
}
