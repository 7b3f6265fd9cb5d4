//! Bytes of replies on their way out, or of a write on its way in.

use cairn_engine::nbd::wire::ReplyHeader;

/// Bytes that are used again and again without being cleared in between.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    /// Where the last header begins.
    last: usize,
    scratch: Vec<u8>,
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            len: 0,
            last: 0,
            scratch: Vec::with_capacity(64),
        }
    }

    /// Returns the bytes that were put in.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn clear(&mut self) {
        (self.len, self.last) = (0, 0);
    }

    /// Forgets what was put in after the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        assert!(len <= self.len, "a buffer is not made longer by forgetting");
        self.len = len;
    }

    /// Returns `len` bytes behind those that were put in; they hold anything.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.len + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.len..end]
    }

    /// Counts bytes in that were written to the room.
    pub(super) fn advance(&mut self, len: usize) {
        assert!(self.len + len <= self.bytes.len(), "the room was asked for");
        self.len += len;
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(super) fn put_header(&mut self, header: ReplyHeader) {
        self.last = self.len;
        self.put_encoded(|scratch| header.encode(scratch));
    }

    pub(super) fn put_encoded(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        encode(&mut scratch);
        self.put(&scratch);
        self.scratch = scratch;
    }

    /// Moves `len` bytes that stand at `from`, which may be behind what was put in, to the end of
    /// it, and counts them in.
    pub(super) fn pull(&mut self, from: usize, len: usize) {
        assert!(from >= self.len, "bytes are pulled to the front only");
        if from != self.len {
            self.bytes.copy_within(from..from + len, self.len);
        }
        self.len += len;
    }

    /// Returns bytes that stand anywhere, also behind those that were put in.
    pub(super) fn at(&self, from: usize, len: usize) -> &[u8] {
        &self.bytes[from..from + len]
    }

    /// Returns the last header and what follows it.
    pub(super) fn last_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.last..self.len]
    }
}
