//! What a pack holds, and where.
//!
//! A footer that decodes tiles its pack: frames lie back to back from the header to the footer,
//! and the chunks of a frame fill its plain bytes.

use std::ops::Range;

use super::{Codec, PackHeader, PackKind};
use crate::format::FormatError;
use crate::format::cursor::{Cursor, at_most, in_range};
use crate::id::ContentId;
use crate::limits::{
    FRAME_CHUNKS_MAX, FRAME_PLAIN_LEN_MAX, FRAME_STORED_LEN_MAX, PACK_CHUNKS_MAX, PACK_FRAMES_MAX,
};

const FRAME_ROW_LEN: usize = 16;
const CHUNK_ROW_LEN: usize = 36;

/// A frame of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameEntry {
    /// Where the stored bytes begin in the pack.
    pub offset: u64,
    /// How many stored bytes it has, tag included.
    pub stored_len: u32,
    /// How many plain bytes it has.
    pub plain_len: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// Its chunks, as positions in [`Footer::entries`].
    pub chunks: Range<u32>,
}

/// A chunk or node of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterEntry {
    /// Its id.
    pub id: ContentId,
    /// How many plain bytes it has.
    pub len: u32,
}

/// What a pack holds, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// What the pack holds.
    pub kind: PackKind,
    /// The frames, in the order in which they lie in the pack.
    pub frames: Vec<FrameEntry>,
    /// The chunks or nodes, in the order of the frames and of the bytes in each.
    pub entries: Vec<FooterEntry>,
}

impl Footer {
    /// Returns the chunks of a frame of this footer, in the order of its plain bytes.
    ///
    /// # Panics
    ///
    /// Panics if `frame` comes from a footer with more entries.
    pub fn frame_entries(&self, frame: &FrameEntry) -> &[FooterEntry] {
        self.entries
            .get(frame.chunks.start as usize..frame.chunks.end as usize)
            .expect("a frame's chunks lie within the entries of its own footer")
    }

    /// Encodes the footer, unsealed, for the pack that `header` begins.
    ///
    /// The bytes are decoded again and compared before they are returned, so that no pack is
    /// written whose contents cannot be found.
    ///
    /// # Errors
    ///
    /// A footer that breaks a rule or limit of the format.
    pub fn encode(&self, header: &PackHeader) -> Result<Vec<u8>, FormatError> {
        at_most(
            "frames of a pack",
            self.frames.len() as u64,
            PACK_FRAMES_MAX as u64,
        )?;
        at_most(
            "chunks of a pack",
            self.entries.len() as u64,
            PACK_CHUNKS_MAX as u64,
        )?;
        let mut bytes = Vec::new();
        for count in [self.frames.len(), self.entries.len()] {
            let count = u32::try_from(count).expect("bounded above");
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        for frame in &self.frames {
            let chunks = u64::from(frame.chunks.end).saturating_sub(frame.chunks.start.into());
            at_most("chunks of a frame", chunks, FRAME_CHUNKS_MAX as u64)?;
            let chunks = u16::try_from(chunks).expect("bounded above");
            bytes.extend_from_slice(&frame.stored_len.to_le_bytes());
            bytes.extend_from_slice(&frame.plain_len.to_le_bytes());
            bytes.extend_from_slice(&chunks.to_le_bytes());
            bytes.extend_from_slice(&[frame.codec.code(), 0, 0, 0, 0, 0]);
        }
        for entry in &self.entries {
            bytes.extend_from_slice(entry.id.as_bytes());
            bytes.extend_from_slice(&entry.len.to_le_bytes());
        }
        let frames_len = self.frames.iter().map(|frame| u64::from(frame.stored_len));
        if Self::decode(header, frames_len.sum(), &bytes)? != *self {
            return Err(FormatError::Malformed {
                rule: "a footer must decode to what was encoded",
            });
        }
        Ok(bytes)
    }

    /// Decodes an unsealed footer. `frames_len` is the number of bytes between the pack's header
    /// and its stored footer.
    pub fn decode(header: &PackHeader, frames_len: u64, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new("pack footer", bytes);
        let frame_count = u64::from(cursor.u32()?);
        let chunk_count = u64::from(cursor.u32()?);
        in_range("frames of a pack", frame_count, 1, PACK_FRAMES_MAX as u64)?;
        in_range("chunks of a pack", chunk_count, 1, PACK_CHUNKS_MAX as u64)?;
        // Both counts are small now, and the columns exist: what is allocated is backed by bytes.
        let frame_rows = cursor.column::<FRAME_ROW_LEN>(usize_of(frame_count)?)?;
        let chunk_rows = cursor.column::<CHUNK_ROW_LEN>(usize_of(chunk_count)?)?;
        cursor.finish()?;

        let entries = decode_entries(header.kind, chunk_rows)?;
        let mut frames = Vec::with_capacity(frame_rows.len());
        let mut tiling = Tiling::new(header, frames_len, &entries);
        for row in frame_rows {
            frames.push(tiling.next_frame(row)?);
        }
        tiling.finish()?;
        Ok(Self {
            kind: header.kind,
            frames,
            entries,
        })
    }
}

fn decode_entries(
    kind: PackKind,
    rows: &[[u8; CHUNK_ROW_LEN]],
) -> Result<Vec<FooterEntry>, FormatError> {
    let mut entries = Vec::with_capacity(rows.len());
    for row in rows {
        let mut row = Cursor::new("pack footer", row);
        let id = ContentId::from_bytes(row.array()?);
        let len = row.u32()?;
        in_range("length of a chunk", len.into(), 1, kind.entry_len_max())?;
        entries.push(FooterEntry { id, len });
    }
    Ok(entries)
}

/// Lays frames and chunks end to end, and checks that they come out even.
struct Tiling<'a> {
    header: &'a PackHeader,
    entries: &'a [FooterEntry],
    offset: u64,
    frames_end: u64,
    next_chunk: u32,
}

impl<'a> Tiling<'a> {
    fn new(header: &'a PackHeader, frames_len: u64, entries: &'a [FooterEntry]) -> Self {
        let offset = PackHeader::LEN as u64;
        Self {
            header,
            entries,
            offset,
            frames_end: offset.saturating_add(frames_len),
            next_chunk: 0,
        }
    }

    fn next_frame(&mut self, row: &[u8; FRAME_ROW_LEN]) -> Result<FrameEntry, FormatError> {
        let mut row = Cursor::new("pack footer", row);
        let stored_len = row.u32()?;
        let plain_len = row.u32()?;
        let chunk_count = row.u16()?;
        let codec = Codec::from_code(row.u8()?)?;
        row.reserved::<5>()?;
        in_range(
            "plain length of a frame",
            plain_len.into(),
            1,
            FRAME_PLAIN_LEN_MAX.into(),
        )?;
        in_range(
            "stored length of a frame",
            stored_len.into(),
            1,
            FRAME_STORED_LEN_MAX.into(),
        )?;
        in_range(
            "chunks of a frame",
            chunk_count.into(),
            1,
            FRAME_CHUNKS_MAX as u64,
        )?;
        self.check_compression(codec, stored_len, plain_len)?;

        let first = self.next_chunk;
        let end = first.saturating_add(chunk_count.into());
        let chunks = self.entries.get(first as usize..end as usize);
        let chunks = chunks.ok_or(FormatError::Malformed {
            rule: "the chunks of all frames must be the chunks of the pack",
        })?;
        let chunk_bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        if chunk_bytes != u64::from(plain_len) {
            return Err(FormatError::Malformed {
                rule: "the chunks of a frame must fill its plain bytes",
            });
        }
        let offset = self.offset;
        self.offset = offset.saturating_add(stored_len.into());
        self.next_chunk = end;
        Ok(FrameEntry {
            offset,
            stored_len,
            plain_len,
            codec,
            chunks: first..end,
        })
    }

    fn check_compression(
        &self,
        codec: Codec,
        stored_len: u32,
        plain_len: u32,
    ) -> Result<(), FormatError> {
        let holds = match stored_len.checked_sub(self.header.overhead()) {
            None | Some(0) => false,
            Some(coded_len) => match codec {
                Codec::Plain => coded_len == plain_len,
                Codec::Zstd => coded_len < plain_len,
            },
        };
        if holds {
            return Ok(());
        }
        Err(FormatError::Malformed {
            rule: "a plain frame must have its plain length, a compressed one less",
        })
    }

    fn finish(self) -> Result<(), FormatError> {
        if self.next_chunk as usize != self.entries.len() {
            return Err(FormatError::Malformed {
                rule: "the chunks of all frames must be the chunks of the pack",
            });
        }
        if self.offset != self.frames_end {
            return Err(FormatError::Malformed {
                rule: "the frames must fill the pack from its header to its footer",
            });
        }
        Ok(())
    }
}

fn usize_of(count: u64) -> Result<usize, FormatError> {
    usize::try_from(count).map_err(|_| FormatError::OutOfRange {
        field: "count",
        value: count,
        limit: usize::MAX as u64,
    })
}
