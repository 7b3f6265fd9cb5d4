//! One image of a chain: its files, its tables, and reading what a mapping points to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compressed::{Compression, DecoderPool};
use super::header::{BitmapsExtension, Header};
use super::tables::{SLICE_LEN_MAX, Slice, TableCache};
use super::types::{Fault, Geometry, GuestOffset, HostOffset};
use crate::source::SourceError;
use crate::source::file::ReadAt;

/// What all images of a chain share, so that memory does not grow with its length.
#[derive(Default)]
pub(super) struct Shared {
    pub tables: TableCache,
    pub decoders: DecoderPool,
}

/// One qcow2 image, without its backing file.
pub(super) struct Image {
    path: PathBuf,
    /// Its number in the chain; keys of the shared caches begin with it.
    id: u32,
    file: Arc<dyn ReadAt>,
    data_file: Option<Arc<dyn ReadAt>>,
    geometry: Geometry,
    version: u32,
    compression: Compression,
    bitmaps: Option<BitmapsExtension>,
    /// Whether whoever wrote last knew of bitmaps.
    bitmaps_valid: bool,
    /// What is looked at: the active state, or an internal snapshot.
    state: State,
    shared: Arc<Shared>,
}

/// A state of the disk: the active one, or an internal snapshot's.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub size: u64,
    pub l1: HostOffset,
    pub l1_entries: u64,
}

impl Image {
    /// Takes an image with a checked header, showing its active state.
    pub fn new(
        path: PathBuf,
        id: u32,
        file: Arc<dyn ReadAt>,
        data_file: Option<Arc<dyn ReadAt>>,
        header: &Header,
        shared: Arc<Shared>,
    ) -> Self {
        Image {
            path,
            id,
            file,
            data_file,
            geometry: header.geometry,
            version: header.version,
            compression: header.compression,
            bitmaps: header.bitmaps,
            bitmaps_valid: header.bitmaps_valid,
            state: State {
                size: header.size,
                l1: header.l1,
                l1_entries: header.l1_entries,
            },
            shared,
        }
    }

    /// Shows another state from now on; its L1 table must have been checked.
    pub fn show(&mut self, state: State) {
        self.state = state;
    }

    /// Returns the image's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the disk's size in bytes, in the state shown.
    pub fn size(&self) -> u64 {
        self.state.size
    }

    /// Returns the image's number in its chain.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn compression(&self) -> Compression {
        self.compression
    }

    pub(super) fn decoders(&self) -> &DecoderPool {
        &self.shared.decoders
    }

    /// Returns the L1 table of the state shown and its number of entries.
    pub(super) fn l1(&self) -> (HostOffset, u64) {
        (self.state.l1, self.state.l1_entries)
    }

    /// Returns where the image's bitmaps are, if it has any, and whether they can be believed.
    pub(super) fn bitmaps(&self) -> Option<(BitmapsExtension, bool)> {
        let is_valid = self.bitmaps_valid && self.version >= 3;
        self.bitmaps.map(|extension| (extension, is_valid))
    }

    pub(super) fn has_data_file(&self) -> bool {
        self.data_file.is_some()
    }

    /// Version 2 had no bit for clusters that read as zeros.
    pub(super) fn knows_zero_clusters(&self) -> bool {
        self.version >= 3
    }

    /// Returns the file that holds the tables.
    pub(super) fn file(&self) -> &dyn ReadAt {
        &*self.file
    }

    pub(super) fn file_len(&self) -> u64 {
        self.file.size()
    }

    /// Returns the file that holds guest data.
    pub(super) fn guest_data(&self) -> &dyn ReadAt {
        self.data_file.as_deref().unwrap_or(&*self.file)
    }

    /// Returns what `fault`, met on the way to `offset`, means to the caller.
    pub(super) fn fault_at(&self, fault: Fault, offset: GuestOffset) -> SourceError {
        let offset = offset.0;
        let path = self.path.clone();
        match fault {
            Fault::Io(source) => SourceError::Read {
                path,
                offset,
                source,
            },
            Fault::Malformed(fault) => SourceError::Malformed {
                path,
                fault: format!("{fault} (disk offset {offset})"),
            },
            other => other.at(&path),
        }
    }

    /// Returns the slice that holds word `index` of a table of `words` words, and where in it.
    pub(super) fn table_slice(
        &self,
        table: HostOffset,
        words: u64,
        index: u64,
    ) -> Result<(Slice, usize), Fault> {
        const SLICE_WORDS: u64 = SLICE_LEN_MAX / 8;
        let in_slice = index % SLICE_WORDS;
        let first = index.saturating_sub(in_slice);
        let slice_words = words.saturating_sub(first).min(SLICE_WORDS);
        let place = table.plus(first.saturating_mul(8));
        let slice = self.shared.tables.get((self.id, place), || {
            let len = usize::try_from(slice_words.saturating_mul(8)).unwrap_or(0);
            let mut bytes = vec![0; len];
            self.file.read_exact_at(place.0, &mut bytes)?;
            Ok::<_, Fault>(bytes)
        })?;
        Ok((slice, usize::try_from(in_slice).unwrap_or(usize::MAX)))
    }

    /// Returns the first cluster of a run of data that the file does not have.
    ///
    /// QEMU takes all that lies past the end of the file for zeros. Here a cluster that begins
    /// within the file may be short (the tail of it was never written), but one that begins past
    /// the end is lost data: the file has been cut short.
    pub(super) fn lost_cluster(&self, host: HostOffset, len: u64) -> Option<HostOffset> {
        let file_len = self.guest_data().size();
        let first = host.0.saturating_sub(self.geometry.in_cluster(host.0));
        let lost = file_len
            .next_multiple_of(self.geometry.cluster_len())
            .max(first);
        (lost < host.plus(len).0).then_some(HostOffset(lost))
    }

    /// Fills `buf` with the bytes of a [`Mapping::Data`](super::mapping::Mapping::Data) run.
    pub(super) fn read_data(
        &self,
        host: HostOffset,
        offset: GuestOffset,
        buf: &mut [u8],
    ) -> Result<(), SourceError> {
        let data = self.guest_data();
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        if let Some(lost) = self.lost_cluster(host, len) {
            let lost_at = offset.plus(lost.0.saturating_sub(host.0));
            let fault = format!(
                "a cluster at {} lies outside the file of {} bytes",
                lost.0,
                data.size()
            );
            return Err(self.fault_at(Fault::Malformed(fault), lost_at));
        }
        let there = usize::try_from(data.size().saturating_sub(host.0)).unwrap_or(usize::MAX);
        let (there, beyond) = buf.split_at_mut(there.min(buf.len()));
        beyond.fill(0);
        data.read_exact_at(host.0, there)
            .map_err(|source| self.fault_at(Fault::Io(source), offset))
    }
}
