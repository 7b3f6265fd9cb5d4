//! Exports of NBD servers.
//!
//! Two metadata contexts tell what need not be read: of `base:allocation`, only the flag that says
//! that bytes read as zeros (a hole may read as anything); and a dirty bitmap, in which what is not
//! dirty is as it was when the bitmap began.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::{Source, SourceError};
use crate::extent::{Extent, ExtentStatus, push_extent};
use crate::limits::DISK_LEN_MAX;
use crate::nbd::client::{Client, ClientError, ClientOptions};
use crate::nbd::uri::Uri;
use crate::nbd::wire::{BASE_ALLOCATION, QEMU_DIRTY_BITMAP, StatusRun, state};

/// Extents begin and end at multiples of this, but for the disk's end. A server may change its mind
/// at every byte; what it says of less than a page saves nothing, and would cost memory.
const GRANULE_LEN: u64 = 4096;

/// An export of an NBD server.
#[derive(Debug)]
pub struct NbdSource {
    client: Client,
    uri: Uri,
    /// Whether the server tells where zeros are; its answer comes first.
    has_allocation: bool,
    has_bitmap: bool,
    /// Why the server told less than it said it would.
    untold: OnceLock<String>,
}

impl NbdSource {
    /// Connects to an export. `bitmap` is the metadata context that tells what is dirty; a name
    /// without a colon is that of a dirty bitmap of QEMU's.
    ///
    /// # Errors
    ///
    /// [`SourceError::Nbd`], also where the server has not the bitmap; [`SourceError::Bitmap`]
    /// where it has, and fails to tell what it marks, upon which the caller may do without it;
    /// [`SourceError::Unsupported`] for a disk longer than [`DISK_LEN_MAX`].
    pub fn open(uri: &Uri, bitmap: Option<&str>) -> Result<Self, SourceError> {
        Self::open_with(uri, bitmap, &ClientOptions::default())
    }

    /// Connects to an export with a client that behaves in another way than by default.
    ///
    /// # Errors
    ///
    /// As [`NbdSource::open`].
    pub fn open_with(
        uri: &Uri,
        bitmap: Option<&str>,
        options: &ClientOptions,
    ) -> Result<Self, SourceError> {
        let mut contexts = vec![BASE_ALLOCATION.to_owned()];
        contexts.extend(bitmap.map(|name| match name.contains(':') {
            true => name.to_owned(),
            false => format!("{QEMU_DIRTY_BITMAP}{name}"),
        }));
        let client =
            Client::connect(uri, &contexts, options).map_err(|error| failed(uri, error))?;
        if client.size() > DISK_LEN_MAX {
            return Err(SourceError::Unsupported {
                path: PathBuf::from(uri.to_string()),
                feature: format!("a disk of more than {DISK_LEN_MAX} bytes"),
            });
        }
        let mut source = Self {
            has_allocation: client.has_context(0),
            has_bitmap: client.has_context(1),
            client,
            uri: uri.clone(),
            untold: OnceLock::new(),
        };
        source.probe(bitmap)?;
        Ok(source)
    }

    /// Asks the server whether it tells at all, as it said that it would. One that does not is read
    /// whole; without a bitmap that was asked for, the caller has to decide.
    fn probe(&mut self, bitmap: Option<&str>) -> Result<(), SourceError> {
        if self.client.size() == 0 || !(self.has_allocation || self.has_bitmap) {
            return Ok(());
        }
        match (self.client.block_status(0..1), bitmap) {
            (Ok(_), _) => Ok(()),
            (Err(ClientError::Failed { .. }), Some(name)) => Err(SourceError::Bitmap {
                path: PathBuf::from(self.uri.to_string()),
                name: name.to_owned(),
                fault: "is there, but the server fails to tell what it marks",
            }),
            (Err(error @ ClientError::Failed { .. }), None) => {
                self.untold.get_or_init(|| error.to_string());
                self.has_allocation = false;
                Ok(())
            }
            (Err(error), _) => Err(failed(&self.uri, error)),
        }
    }

    /// Goes on with what the server says of the bytes that follow, as far as all its contexts say
    /// something.
    fn tell(&self, granules: &mut Granules) -> Result<(), SourceError> {
        let (start, answers) = match self.client.block_status(granules.at..granules.end) {
            Ok(told) => told,
            Err(error @ ClientError::Failed { .. }) => {
                // Reading shows whether more than the status fails.
                self.untold.get_or_init(|| error.to_string());
                granules.push(u64::MAX, ExtentStatus::Data);
                return Ok(());
            }
            Err(error) => return Err(failed(&self.uri, error)),
        };
        let mut answers = answers.into_iter();
        let allocation = self.has_allocation.then(|| answers.next()).flatten();
        let dirty = self.has_bitmap.then(|| answers.next()).flatten();
        merge(start, self.client.block_min(), allocation, dirty, granules);
        Ok(())
    }
}

/// Goes on with what both contexts say of the bytes from `start` on, which is not after the place
/// where the granules are. A context that is not there says that all is allocated, or dirty.
///
/// Where an answer ends before that place, the block that was asked about is taken for data: to ask
/// again would begin at `start` again.
fn merge(
    start: u64,
    block_min: u64,
    allocation: Option<Vec<StatusRun>>,
    dirty: Option<Vec<StatusRun>>,
    granules: &mut Granules,
) {
    let mut allocation = Runs::new(allocation, 0);
    let mut dirty = Runs::new(dirty, state::DIRTY);
    let before = granules.at;
    let mut at = start;
    assert!(at <= before, "an answer begins where it was asked for");
    while let (Some(zero), Some(change)) = (allocation.first(), dirty.first()) {
        let len = zero.len.min(change.len);
        if len == 0 || at >= granules.end {
            break;
        }
        let status = if change.flags & state::DIRTY == 0 {
            ExtentStatus::Unchanged
        } else if zero.flags & state::ZERO != 0 {
            ExtentStatus::Zero
        } else {
            ExtentStatus::Data
        };
        allocation.take(len);
        dirty.take(len);
        at = at.saturating_add(len);
        // Nothing is said of what was told before, however much the answer says of it again.
        granules.push(at.saturating_sub(granules.at), status);
    }
    if granules.at == before {
        let next = start
            .saturating_add(block_min)
            .max(before.saturating_add(1));
        granules.push(next.saturating_sub(before), ExtentStatus::Data);
    }
}

fn failed(uri: &Uri, error: ClientError) -> SourceError {
    if error.is_cancelled() {
        return SourceError::Cancelled;
    }
    SourceError::Nbd {
        uri: uri.to_string(),
        source: Box::new(error),
    }
}

/// What is left of the runs of one context.
struct Runs {
    runs: std::vec::IntoIter<StatusRun>,
    first: Option<StatusRun>,
}

impl Runs {
    /// `otherwise` are the flags of all there is, where the server does not tell.
    fn new(runs: Option<Vec<StatusRun>>, otherwise: u64) -> Self {
        let endless = StatusRun {
            len: u64::MAX,
            flags: otherwise,
        };
        let mut runs = runs.unwrap_or_else(|| vec![endless]).into_iter();
        let first = runs.next();
        Self { runs, first }
    }

    fn first(&self) -> Option<StatusRun> {
        self.first
    }

    fn take(&mut self, len: u64) {
        if let Some(first) = &mut self.first {
            first.len = first.len.saturating_sub(len);
            if first.len == 0 {
                self.first = self.runs.next();
            }
        }
    }
}

/// Extents that change their status at granules only: one of which less than all is zeros, or less
/// than all is unchanged, is data.
struct Granules {
    extents: Vec<Extent>,
    at: u64,
    end: u64,
    /// The first part of a granule, and its status.
    begun: Option<(u64, ExtentStatus)>,
}

impl Granules {
    fn new(range: Range<u64>) -> Self {
        Self {
            extents: Vec::new(),
            at: range.start,
            end: range.end,
            begun: None,
        }
    }

    fn push(&mut self, len: u64, status: ExtentStatus) {
        let target = self.at.saturating_add(len).min(self.end);
        while self.at < target {
            let over = self.at.checked_rem(GRANULE_LEN).unwrap_or_default();
            let granule_end = self.at.saturating_add(GRANULE_LEN.saturating_sub(over));
            if self.begun.is_none() && target >= granule_end {
                let whole_end = match target == self.end {
                    true => target,
                    false => {
                        target.saturating_sub(target.checked_rem(GRANULE_LEN).unwrap_or_default())
                    }
                };
                let len = whole_end.saturating_sub(self.at);
                push_extent(&mut self.extents, self.at, len, status);
                self.at = whole_end;
                continue;
            }
            let (start, mixed) = match self.begun {
                Some((start, begun)) if begun == status => (start, status),
                Some((start, _)) => (start, ExtentStatus::Data),
                None => (self.at, status),
            };
            self.at = granule_end.min(target);
            self.begun = Some((start, mixed));
            if self.at == granule_end || self.at == self.end {
                let len = self.at.saturating_sub(start);
                push_extent(&mut self.extents, start, len, mixed);
                self.begun = None;
            }
        }
    }
}

impl Source for NbdSource {
    fn size(&self) -> u64 {
        self.client.size()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        assert!(range.end <= self.size());
        let mut granules = Granules::new(range.clone());
        if !self.has_allocation && !self.has_bitmap {
            let len = range.end.saturating_sub(range.start);
            granules.push(len, ExtentStatus::Data);
            return Ok(granules.extents);
        }
        while granules.at < granules.end {
            self.tell(&mut granules)?;
        }
        Ok(granules.extents)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        self.read_many(&mut [(offset, buf)])
    }

    fn read_many(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        (self.client.read(parts)).map_err(|error| failed(&self.uri, error))
    }

    fn has_unchanged(&self) -> bool {
        true
    }

    fn untold(&self) -> Option<String> {
        self.untold.get().cloned()
    }

    fn is_remote(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
