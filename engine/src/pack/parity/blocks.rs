//! A pack's stored bytes, block by block.

use crate::format::parity::{ParityLayout, block_check};
use crate::id::PackId;
use crate::limits::PARITY_BLOCK_LEN;
use crate::pack::PackError;
use crate::storage::{Name, SharedStorage, StorageError};

/// Blocks that are read at once.
const RUN: u32 = 256;

/// The blocks of a pack as they are stored, whole or not.
pub(super) struct Blocks<'s> {
    storage: &'s SharedStorage,
    name: Name,
    layout: ParityLayout,
}

impl<'s> Blocks<'s> {
    pub(super) fn new(storage: &'s SharedStorage, pack: PackId, layout: ParityLayout) -> Self {
        let name = Name::Pack(pack);
        Self {
            storage,
            name,
            layout,
        }
    }

    /// Reads one block, filled up with zeros.
    pub(super) fn read(
        &self,
        block: u32,
        buf: &mut [u8; PARITY_BLOCK_LEN],
    ) -> Result<(), StorageError> {
        let (start, len) = (self.layout.block_start(block), self.layout.block_len(block));
        let (bytes, zeros) = buf.split_at_mut(len);
        zeros.fill(0);
        self.storage.read_at(&self.name, start, bytes)
    }

    /// Hands over all blocks in their order, filled up with zeros, or why they cannot be read.
    pub(super) fn for_each(
        &self,
        mut each: impl FnMut(u32, Result<&[u8], StorageError>) -> Result<(), PackError>,
    ) -> Result<(), PackError> {
        let mut run = vec![0; RUN as usize * PARITY_BLOCK_LEN];
        let blocks = self.layout.blocks();
        for first in (0..blocks).step_by(RUN as usize) {
            let numbers = first..blocks.min(first + RUN);
            let lens = numbers.clone().map(|block| self.layout.block_len(block));
            let (bytes, zeros) = run.split_at_mut(lens.sum());
            zeros.fill(0);
            let start = self.layout.block_start(first);
            if self.storage.read_at(&self.name, start, bytes).is_ok() {
                for (block, bytes) in numbers.zip(run.chunks_exact(PARITY_BLOCK_LEN)) {
                    each(block, Ok(bytes))?;
                }
                continue;
            }
            // One of them is out of reach: the others may not be.
            let mut buf = [0; PARITY_BLOCK_LEN];
            for block in numbers {
                let read = self.read(block, &mut buf);
                each(block, read.map(|()| buf.as_slice()))?;
            }
        }
        Ok(())
    }
}

/// The checks of a pack's blocks, as its bytes come by from the beginning to the end.
pub struct BlockChecks {
    pack: PackId,
    checks: Vec<u64>,
    /// The block that is not full yet.
    rest: Vec<u8>,
    len: u64,
}

impl BlockChecks {
    /// Begins before the first byte.
    pub fn new(pack: PackId) -> Self {
        Self {
            pack,
            checks: Vec::new(),
            rest: Vec::with_capacity(PARITY_BLOCK_LEN),
            len: 0,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.rest.is_empty()
                && let Some((block, after)) = bytes.split_at_checked(PARITY_BLOCK_LEN)
            {
                self.push(block);
                bytes = after;
                continue;
            }
            let wanted = PARITY_BLOCK_LEN - self.rest.len();
            let (part, after) = bytes.split_at(wanted.min(bytes.len()));
            self.rest.extend_from_slice(part);
            bytes = after;
            if self.rest.len() == PARITY_BLOCK_LEN {
                let block = std::mem::take(&mut self.rest);
                self.push(&block);
                self.rest = block;
                self.rest.clear();
            }
        }
    }

    fn push(&mut self, block: &[u8]) {
        let number = self.checks.len() as u64;
        self.checks.push(block_check(self.pack, number, block));
    }

    /// Returns the length of all bytes, and the checks of all blocks, the last filled up.
    pub fn finish(mut self) -> (u64, Vec<u64>) {
        if !self.rest.is_empty() {
            let mut block = std::mem::take(&mut self.rest);
            block.resize(PARITY_BLOCK_LEN, 0);
            self.push(&block);
        }
        (self.len, self.checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_do_not_depend_on_the_parts_in_which_bytes_come() {
        let mut random = fastrand::Rng::with_seed(2);
        let pack = PackId::from_bytes([1; 32]);
        for len in [1, 4096, 4097, 50_000] {
            let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            let expected: Vec<u64> = (0..)
                .zip(bytes.chunks(PARITY_BLOCK_LEN))
                .map(|(number, block)| {
                    let mut block = block.to_vec();
                    block.resize(PARITY_BLOCK_LEN, 0);
                    block_check(pack, number, &block)
                })
                .collect();
            for part in [1, 7, 4095, 4096, 9000, 50_000] {
                let mut checks = BlockChecks::new(pack);
                bytes.chunks(part).for_each(|part| checks.update(part));
                assert_eq!(checks.finish(), (len, expected.clone()), "{len}, {part}");
            }
        }
    }
}
