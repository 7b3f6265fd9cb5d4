//! Reads parity, and says whether it is what it should be.

use crate::format::FormatError;
use crate::format::parity::{ParityDirectory, ParityHead, ParityLayout, decode_record};
use crate::id::PackId;
use crate::pack::PackError;
use crate::storage::{Name, SharedStorage, StorageError};

/// What is known of a pack's parity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParityState {
    /// There is none.
    Missing,
    /// It is not what it should be, for this reason.
    Damaged(String),
    /// It is whole.
    Whole,
}

/// Reads all of a pack's parity. `found` is the pack's length and what [`super::BlockChecks`] gave
/// for it, where the pack was read and is whole; `percent` how much parity it should have.
///
/// # Errors
///
/// That this process lacks something. What cannot be read is damaged.
pub fn inspect_parity(
    storage: &SharedStorage,
    pack: PackId,
    percent: u8,
    found: Option<(u64, &[u64])>,
) -> Result<ParityState, PackError> {
    let parity = ParityFile { storage, pack };
    let len = match storage.len(&Name::Parity(pack)) {
        Err(StorageError::NotFound(_)) => return Ok(ParityState::Missing),
        Err(error) => return parity.lost(error).map(ParityState::Damaged),
        Ok(len) => len,
    };
    let mut faults = Vec::new();
    let (first, last) = (parity.first()?, parity.last(len)?);
    faults.extend(
        first
            .as_ref()
            .err()
            .map(|why| format!("its beginning: {why}")),
    );
    faults.extend(last.as_ref().err().map(|why| format!("its end: {why}")));
    if let Ok(directory) = first.or(last) {
        let layout = directory.head.layout;
        if len != layout.file_len() {
            faults.push(format!("it has {len} bytes, not {}", layout.file_len()));
        }
        let mut bad = 0;
        for group in 0..layout.groups() {
            let spares = parity.spares(&layout, group)?;
            bad += spares.iter().filter(|spare| spare.is_none()).count();
        }
        if bad > 0 {
            faults.push(format!("{bad} blocks of it are damaged"));
        }
        if let Some((len, checks)) = found
            && (checks != directory.checks || ParityLayout::new(len, percent) != Ok(layout))
        {
            faults.push("it is not that of the pack".to_owned());
        }
    }
    Ok(match faults.is_empty() {
        true => ParityState::Whole,
        false => ParityState::Damaged(faults.join("; ")),
    })
}

/// The parity of one pack, as it is stored, whole or not. What cannot be had for damage is told
/// inside, and what this process lacks outside.
pub(super) struct ParityFile<'s> {
    pub(super) storage: &'s SharedStorage,
    pub(super) pack: PackId,
}

type Found<T> = Result<Result<T, String>, PackError>;

impl ParityFile<'_> {
    /// Returns the directory, from whichever end has it.
    pub(super) fn directory(&self) -> Found<ParityDirectory> {
        if let Ok(directory) = self.first()? {
            return Ok(Ok(directory));
        }
        match self.storage.len(&Name::Parity(self.pack)) {
            Ok(len) => self.last(len),
            Err(StorageError::NotFound(_)) => Ok(Err("it has no parity".to_owned())),
            Err(error) => self.lost(error).map(Err),
        }
    }

    fn first(&self) -> Found<ParityDirectory> {
        let head = |head: &ParityHead| (0, head.layout.directory_len());
        self.read(0, head, ParityDirectory::decode)
    }

    fn last(&self, len: u64) -> Found<ParityDirectory> {
        let at = |head: &ParityHead| {
            let directory_len = head.layout.directory_len();
            (len.saturating_sub(directory_len as u64), directory_len)
        };
        let head_start = len.saturating_sub(ParityHead::LEN as u64);
        self.read(head_start, at, ParityDirectory::decode_mirrored)
    }

    /// Reads a directory: its head first, which says where it begins and how long it is.
    fn read(
        &self,
        head_start: u64,
        place: impl FnOnce(&ParityHead) -> (u64, usize),
        decode: impl FnOnce(&[u8], PackId) -> Result<ParityDirectory, FormatError>,
    ) -> Found<ParityDirectory> {
        let name = Name::Parity(self.pack);
        let mut bytes = vec![0; ParityHead::LEN];
        if let Err(error) = self.storage.read_at(&name, head_start, &mut bytes) {
            return self.lost(error).map(Err);
        }
        let head = match ParityHead::decode(&bytes) {
            Ok(head) => head,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (start, len) = place(&head);
        bytes.resize(len, 0);
        if let Err(error) = self.storage.read_at(&name, start, &mut bytes) {
            return self.lost(error).map(Err);
        }
        Ok(decode(&bytes, self.pack).map_err(|error| error.to_string()))
    }

    /// Returns the parity blocks of a group; `None` for those that are damaged.
    pub(super) fn spares(
        &self,
        layout: &ParityLayout,
        group: u32,
    ) -> Result<Vec<Option<Vec<u8>>>, PackError> {
        const LEN: usize = ParityLayout::RECORD_LEN;
        let name = Name::Parity(self.pack);
        let start = layout.records_start(group);
        let mut records = vec![0; layout.spares() as usize * LEN];
        let is_read = match self.storage.read_at(&name, start, &mut records) {
            Err(error) if error.is_shortage() => return Err(error.into()),
            read => read.is_ok(),
        };
        let mut spares = Vec::new();
        for (spare, record) in (0..).zip(records.chunks_exact_mut(LEN)) {
            let at = start + u64::from(spare) * LEN as u64;
            // One of them is out of reach: the others may not be.
            if !is_read && self.storage.read_at(&name, at, record).is_err() {
                spares.push(None);
                continue;
            }
            let number = layout.spare_number(group, spare);
            spares.push(decode_record(self.pack, number, record).map(<[u8]>::to_vec));
        }
        Ok(spares)
    }

    fn lost(&self, error: StorageError) -> Result<String, PackError> {
        match error.is_shortage() {
            true => Err(error.into()),
            false => Ok(error.to_string()),
        }
    }
}
