//! A pack's bytes from its beginning to its end, hashed on the way.

use crate::id::PackId;
use crate::limits::MIB;
use crate::pack::{BlockChecks, PackError};
use crate::progress::Progress;
use crate::storage::{Name, SharedStorage};

/// Reads one pack part by part.
pub(super) struct Stream<'s> {
    storage: &'s SharedStorage,
    progress: &'s Progress,
    name: Name,
    at: u64,
    read: u64,
    hasher: blake3::Hasher,
    /// Where parity is compared with what is read.
    checks: Option<BlockChecks>,
}

impl<'s> Stream<'s> {
    pub(super) fn new(storage: &'s SharedStorage, pack: PackId, progress: &'s Progress) -> Self {
        Self {
            storage,
            progress,
            name: Name::Pack(pack),
            at: 0,
            read: 0,
            hasher: blake3::Hasher::new(),
            checks: None,
        }
    }

    /// Has the blocks checked, too, for [`Stream::checks`].
    pub(super) fn with_checks(mut self, pack: PackId) -> Self {
        self.checks = Some(BlockChecks::new(pack));
        self
    }

    /// Returns the length read, and the checks of its blocks: for packs of which all could be read.
    pub(super) fn checks(self) -> Option<(u64, Vec<u64>)> {
        self.checks.map(BlockChecks::finish)
    }

    /// Reads up to byte `end`. A part that cannot be read is passed over.
    pub(super) fn read(&mut self, buf: &mut Vec<u8>, end: u64) -> Result<(), PackError> {
        let len = end - self.at;
        buf.resize(usize::try_from(len).expect("bounded by the format"), 0);
        let read = self.storage.read_at(&self.name, self.at, buf);
        self.at = end;
        Progress::add(&self.progress.done_bytes, len);
        Progress::add(&self.progress.read_bytes, len);
        read?;
        self.hasher.update(buf);
        if let Some(checks) = &mut self.checks {
            checks.update(buf);
        }
        self.read += len;
        Ok(())
    }

    /// Reads all of a pack of `len` bytes, which need not be what a pack should be.
    pub(super) fn read_all(&mut self, buf: &mut Vec<u8>, len: u64) -> Result<(), PackError> {
        while self.at < len {
            self.read(buf, len.min(self.at + MIB))?;
        }
        Ok(())
    }

    /// Returns how many bytes could be read.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read
    }

    /// Returns whether the bytes read have the hash that is the pack's name.
    pub(super) fn has_name(&self, pack: PackId) -> bool {
        self.hasher.finalize() == *pack.as_bytes()
    }
}
