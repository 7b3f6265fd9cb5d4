//! Gathers new content into frames and compresses them.

use crate::compress::Compressor;
use crate::format::pack::{Codec, FooterEntry};
use crate::id::ContentId;
use crate::limits;

/// A compressed frame that has no place in a pack yet.
#[derive(Debug)]
pub struct Frame {
    /// How the bytes are stored.
    pub codec: Codec,
    /// Plain length in bytes.
    pub plain_len: u32,
    /// The bytes as stored, before sealing.
    pub stored: Vec<u8>,
    /// What the frame holds, in order.
    pub entries: Vec<FooterEntry>,
}

/// Collects content until a frame is full. One per thread: it owns a compression context.
pub struct Framer {
    compressor: Compressor,
    frame_len: usize,
    plain: Vec<u8>,
    entries: Vec<FooterEntry>,
}

impl Framer {
    /// Returns a framer that fills frames to `frame_len` plain bytes.
    pub fn new(compressor: Compressor, frame_len: u32) -> Self {
        Self {
            compressor,
            frame_len: frame_len as usize,
            plain: Vec::with_capacity(frame_len as usize),
            entries: Vec::new(),
        }
    }

    /// Adds one piece of content; returns the frame that had no room for it.
    pub fn add(&mut self, id: ContentId, bytes: &[u8]) -> Option<Frame> {
        let full = !self.entries.is_empty()
            && (self.plain.len() + bytes.len() > self.frame_len
                || self.entries.len() == limits::FRAME_CHUNKS_MAX);
        let frame = if full { self.flush() } else { None };
        self.plain.extend_from_slice(bytes);
        self.entries.push(entry(id, bytes));
        frame
    }

    /// Adds content that lies one after another in `bytes`, and hands each full frame to `done`.
    /// Frames that lie wholly within `bytes` are compressed from there, without a copy.
    pub fn add_run<E>(
        &mut self,
        run: &[(ContentId, u32)],
        bytes: &[u8],
        mut done: impl FnMut(Frame) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = bytes;
        let mut at = 0;
        while let Some(&(id, len)) = run.get(at) {
            if self.entries.is_empty() {
                let (count, taken) = self.whole_frame(&run[at..]);
                if at + count < run.len() {
                    let (plain, tail) = rest.split_at(taken);
                    done(self.compress_direct(&run[at..at + count], plain))?;
                    (rest, at) = (tail, at + count);
                    continue;
                }
            }
            let (chunk, tail) = rest.split_at(len as usize);
            if let Some(frame) = self.add(id, chunk) {
                done(frame)?;
            }
            (rest, at) = (tail, at + 1);
        }
        Ok(())
    }

    /// Returns how many of a run's first contents make one frame, and their length.
    fn whole_frame(&self, run: &[(ContentId, u32)]) -> (usize, usize) {
        let mut total = 0;
        let mut count = 0;
        for &(_, len) in run.iter().take(limits::FRAME_CHUNKS_MAX) {
            if count > 0 && total + len as usize > self.frame_len {
                break;
            }
            total += len as usize;
            count += 1;
        }
        (count, total)
    }

    fn compress_direct(&mut self, run: &[(ContentId, u32)], plain: &[u8]) -> Frame {
        let entries = run
            .iter()
            .map(|&(id, len)| FooterEntry { id, len })
            .collect();
        compress(&mut self.compressor, plain, entries)
    }

    /// Returns what was collected as a frame, if anything was.
    pub fn flush(&mut self) -> Option<Frame> {
        if self.entries.is_empty() {
            return None;
        }
        let entries = std::mem::take(&mut self.entries);
        let frame = compress(&mut self.compressor, &self.plain, entries);
        self.plain.clear();
        Some(frame)
    }
}

fn entry(id: ContentId, bytes: &[u8]) -> FooterEntry {
    let len = u32::try_from(bytes.len()).expect("content is at most CHUNK_LEN_MAX long");
    FooterEntry { id, len }
}

fn compress(compressor: &mut Compressor, plain: &[u8], entries: Vec<FooterEntry>) -> Frame {
    let mut stored = Vec::new();
    let codec = compressor.compress(plain, &mut stored);
    let plain_len = u32::try_from(plain.len()).expect("a frame is at most FRAME_PLAIN_LEN_MAX");
    Frame {
        codec,
        plain_len,
        stored,
        entries,
    }
}
