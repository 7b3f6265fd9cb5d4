//! Fetches many chunks at once: by frame, so that each frame is read and decoded once, and every
//! chunk compared with its id before its bytes are handed on.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::{Contents, RepositoryError};
use crate::chunker::ChunkRef;
use crate::compress::Decompressor;
use crate::id::{ContentId, PackId};
use crate::index::Place;
use crate::pack::{PackError, PackReader};

/// What one thread needs to fetch: a decompression context and buffers.
#[derive(Default)]
pub struct Fetcher {
    decompressor: Decompressor,
    stored: Vec<u8>,
    plain: Vec<u8>,
}

/// A chunk wanted, and where it lies.
struct Wanted<'c> {
    chunk: &'c ChunkRef,
    pack: PackId,
    place: Place,
}

/// A chunk that is not where it was expected, and the number of the failure that showed it.
type Elsewhere<'c> = (&'c ChunkRef, Option<usize>);

/// Takes runs of bytes with their disk offsets, and may refuse to go on.
pub type Sink<'s, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 's;

/// Takes a chunk that no pack gives back whole, with the reason, or gives it back as the failure.
pub type Lost<'l, E> = dyn FnMut(&ChunkRef, RepositoryError) -> Result<(), E> + 'l;

impl Contents {
    /// Hands the bytes of `chunks` to `sink`, with the disk offset of each run, in any order.
    /// Chunks that touch on the disk and in a frame come as one run.
    ///
    /// # Errors
    ///
    /// The first chunk that no pack gives back whole; runs handed on before were right.
    pub fn fetch<E: From<RepositoryError>>(
        &self,
        chunks: &[ChunkRef],
        fetcher: &mut Fetcher,
        sink: &mut Sink<'_, E>,
    ) -> Result<(), E> {
        self.fetch_past(chunks, fetcher, sink, &mut |_, error| Err(error.into()))
    }

    /// Does the same, and hands each chunk that is lost to `lost`, which says whether to go on.
    ///
    /// # Errors
    ///
    /// What `lost` and `sink` return, and a failure that is none of a chunk.
    pub fn fetch_past<E: From<RepositoryError>>(
        &self,
        chunks: &[ChunkRef],
        fetcher: &mut Fetcher,
        sink: &mut Sink<'_, E>,
        lost: &mut Lost<'_, E>,
    ) -> Result<(), E> {
        let ids: Vec<ContentId> = chunks.iter().map(|chunk| chunk.id.into()).collect();
        let places = self.locate(&ids)?;
        let mut wanted = Vec::with_capacity(chunks.len());
        let (mut elsewhere, mut failures) = (Vec::new(), Vec::new());
        for (chunk, place) in chunks.iter().zip(places) {
            let known = place.and_then(|place| Some((self.index().pack(place.pack)?, place)));
            match known {
                Some((pack, place)) => wanted.push(Wanted { chunk, pack, place }),
                None => elsewhere.push((chunk, None)),
            }
        }
        wanted.sort_by_key(|w| (w.pack, w.place.frame, w.chunk.offset));
        let frames = wanted.chunk_by(|a, b| (a.pack, a.place.frame) == (b.pack, b.place.frame));
        for frame in frames {
            if let Err(error) = self.fetch_frame(frame, fetcher, sink, &mut elsewhere)? {
                elsewhere.extend(frame.iter().map(|w| (w.chunk, Some(failures.len()))));
                failures.push(error);
            }
        }
        match elsewhere.is_empty() {
            true => Ok(()),
            false => self.fetch_elsewhere(&elsewhere, failures, sink, lost),
        }
    }

    /// Fetches the chunks wanted of one frame. Chunks that are not whole there go to `elsewhere`;
    /// a frame that cannot be read at all is returned as the inner error.
    fn fetch_frame<'c, E>(
        &self,
        wanted: &[Wanted<'c>],
        fetcher: &mut Fetcher,
        sink: &mut Sink<'_, E>,
        elsewhere: &mut Vec<Elsewhere<'c>>,
    ) -> Result<Result<(), PackError>, E> {
        let Some(first) = wanted.first() else {
            return Ok(Ok(()));
        };
        let (pack, frame) = (first.pack, u32::from(first.place.frame));
        let reader = match self.footers.get(pack) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let held = self.frames.get(&(pack, frame));
        if held.is_none()
            && let Err(error) = self.read_frame(&reader, frame, fetcher)
        {
            return Ok(Err(error));
        }
        let plain = held
            .as_ref()
            .map_or(fetcher.plain.as_slice(), |plain| plain.as_slice());
        let mut run = Run::default();
        for w in wanted {
            let whole = reader
                .slot_range(&w.place, w.chunk.id.into())
                .filter(|range| range.len() == w.chunk.len as usize)
                .filter(|range| self.is_whole(w.chunk, plain.get(range.clone())));
            let Some(range) = whole else {
                // Its own failure shows again when this copy is tried with the others.
                elsewhere.push((w.chunk, None));
                continue;
            };
            if !run.extend(w.chunk.offset, &range) {
                run.hand_on(plain, sink)?;
                run = Run {
                    offset: w.chunk.offset,
                    range,
                };
            }
        }
        run.hand_on(plain, sink)?;
        // A frame that was only used in part is likely wanted for the next disk bytes.
        let slots = reader.frame(frame).map_or(0, |entry| entry.chunks.len());
        if held.is_none() && wanted.len() < slots {
            let plain = Arc::new(std::mem::take(&mut fetcher.plain));
            let cost = plain.len();
            self.frames.insert((pack, frame), plain, cost);
        }
        Ok(Ok(()))
    }

    fn read_frame(
        &self,
        reader: &PackReader,
        frame: u32,
        fetcher: &mut Fetcher,
    ) -> Result<(), PackError> {
        let Fetcher {
            decompressor,
            stored,
            plain,
        } = fetcher;
        reader.read_frame(
            self.repository().storage(),
            frame,
            decompressor,
            stored,
            plain,
        )
    }

    fn is_whole(&self, chunk: &ChunkRef, bytes: Option<&[u8]>) -> bool {
        bytes.is_some_and(|bytes| self.repository().keys().chunk_id(bytes) == chunk.id)
    }

    /// Fetches chunks from any packs that have them whole, past the index. All are looked for at
    /// once: that reads every footer there is.
    fn fetch_elsewhere<E: From<RepositoryError>>(
        &self,
        wanted: &[Elsewhere<'_>],
        failures: Vec<PackError>,
        sink: &mut Sink<'_, E>,
        lost: &mut Lost<'_, E>,
    ) -> Result<(), E> {
        let ids: HashSet<ContentId> = wanted.iter().map(|(chunk, _)| chunk.id.into()).collect();
        let mut copies = self.copies(&ids)?;
        let mut failures: Vec<Option<PackError>> = failures.into_iter().map(Some).collect();
        let keys = self.repository().keys();
        for (chunk, failure) in wanted {
            let id: ContentId = chunk.id.into();
            let failure = failure.and_then(|number| failures.get_mut(number));
            let found = self.whole_copy(id, &mut copies, failure.unwrap_or(&mut None), |bytes| {
                keys.chunk_id(bytes).into()
            });
            let range = chunk.offset..chunk.end();
            match found {
                Ok(Some(bytes)) if bytes.len() == chunk.len as usize => {
                    sink(chunk.offset, &bytes)?;
                }
                Ok(_) => {
                    let missing = RepositoryError::MissingChunk { chunk: id, range };
                    lost(chunk, self.verdict(missing))?;
                }
                Err(RepositoryError::Pack(source)) => {
                    let source = Arc::new(source);
                    let damaged = RepositoryError::DamagedChunk {
                        chunk: id,
                        range,
                        source,
                    };
                    lost(chunk, self.verdict(damaged))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Bytes of a frame that go to the disk in one piece.
#[derive(Default)]
struct Run {
    offset: u64,
    range: Range<usize>,
}

impl Run {
    /// Takes in what follows directly on the disk and in the frame; returns whether it does.
    fn extend(&mut self, offset: u64, range: &Range<usize>) -> bool {
        let follows = !self.range.is_empty()
            && self.range.end == range.start
            && self.offset + self.range.len() as u64 == offset;
        if follows {
            self.range.end = range.end;
        }
        follows
    }

    fn hand_on<E>(&self, plain: &[u8], sink: &mut Sink<'_, E>) -> Result<(), E> {
        match plain.get(self.range.clone()) {
            Some(bytes) if !bytes.is_empty() => sink(self.offset, bytes),
            _ => Ok(()),
        }
    }
}
