//! Where what is lost may still be had. Nothing that a donor gives is believed: whoever asks
//! compares it with the id of what was lost.

use std::ops::Range;
use std::sync::Arc;

use crate::id::{ContentId, SnapshotId};
use crate::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};
use crate::repository::{Contents, Repository, Snapshot};
use crate::source::Source;

use super::documents::Named;

/// Disks of another repository that are asked for one range.
const CANDIDATES_MAX: usize = 8;
/// Longest range that is asked for at once.
const RANGE_LEN_MAX: u64 = crate::limits::REGION_LEN;

/// Where what is lost may still be had.
pub enum Donor {
    /// A disk that a snapshot was made from.
    Disk(DiskDonor),
    /// Another repository.
    Repository(RepositoryDonor),
}

/// A disk that snapshots were made from. It may have changed since.
pub struct DiskDonor {
    /// The snapshot that it is asked for; `None` for all.
    pub snapshot: Option<SnapshotId>,
    /// The disk's name in the VM.
    pub target: String,
    /// Its bytes.
    pub source: Box<dyn Source>,
}

/// Another repository, opened to be read.
pub struct RepositoryDonor {
    contents: Arc<Contents>,
    snapshots: Vec<Snapshot>,
    cache: Arc<ImageCache>,
}

/// A disk as its place in a snapshot, of which bytes are lost.
#[derive(Clone, Copy)]
pub(super) struct Lost<'l> {
    pub(super) snapshot: &'l Snapshot,
    pub(super) target: &'l str,
    pub(super) is_file: bool,
}

impl RepositoryDonor {
    /// Takes a repository that is open, and its snapshots.
    pub fn new(contents: Arc<Contents>, snapshots: Vec<Snapshot>) -> Self {
        Self {
            contents,
            snapshots,
            cache: ImageCache::new(CACHE_BYTES_DEFAULT),
        }
    }

    /// Returns an object's stored bytes, if they have the hash that is its name.
    pub(super) fn stored(&self, object: Named) -> Option<Vec<u8>> {
        let storage = self.contents.repository().storage();
        let stored = storage.read(&object.name, object.limit).ok()?;
        object.is_whole(&stored).then_some(stored)
    }

    /// Returns the snapshots of the same repository that are there, and not forgotten, and of which
    /// `is_here` says no.
    pub(super) fn more<'d>(
        &'d self,
        ours: &Repository,
        is_here: impl Fn(SnapshotId) -> bool,
    ) -> impl Iterator<Item = &'d Snapshot> {
        let theirs = self.contents.repository();
        let is_same = ours.config().repository_id == theirs.config().repository_id;
        let live = |it: &&Snapshot| it.state.forgotten.is_none();
        let snapshots = self.snapshots.iter().filter(live);
        snapshots.filter(move |it| is_same && !is_here(it.id))
    }

    /// Returns where it is, for people.
    pub(super) fn location(&self) -> String {
        self.contents.repository().storage().location()
    }

    /// Returns content by its id, where both repositories give the same ids.
    fn content(
        &self,
        ours: &Repository,
        id: ContentId,
        hash: &impl Fn(&[u8]) -> ContentId,
    ) -> Option<Vec<u8>> {
        let theirs = self.contents.repository();
        let is_same = ours.config().repository_id == theirs.config().repository_id;
        let are_plain = !ours.keys().is_sealed() && !theirs.keys().is_sealed();
        if !is_same && !are_plain {
            return None;
        }
        let (pack, place) = self.contents.places(&[id]).ok()?.pop()??;
        self.contents.content_at(pack, &place, id, hash).ok()?
    }

    /// Returns the disks that are likely to have the bytes, the likeliest first: those of the same
    /// VM and name, by how near they are in time.
    fn images(&self, lost: Lost<'_>) -> Vec<Image> {
        let wanted = &lost.snapshot.manifest;
        let same = |it: &&Snapshot| it.manifest.vm == wanted.vm;
        let mut near: Vec<&Snapshot> = self.snapshots.iter().filter(same).collect();
        near.sort_by_key(|it| {
            let apart = it.manifest.time.duration_since(wanted.time);
            apart.abs()
        });
        let disks = near.iter().filter_map(|it| it.disk(lost.target));
        let images = disks
            .take(CANDIDATES_MAX)
            .map(|disk| Image::open(Arc::clone(&self.contents), disk, &self.cache));
        images.filter_map(Result::ok).collect()
    }
}

impl Donor {
    /// Returns content by its id, if this donor keeps it by the same one.
    pub(super) fn content(
        &self,
        ours: &Repository,
        id: ContentId,
        hash: &impl Fn(&[u8]) -> ContentId,
    ) -> Option<Vec<u8>> {
        match self {
            Self::Disk(_) => None,
            Self::Repository(donor) => donor.content(ours, id, hash),
        }
    }

    /// Hands to `see` what this donor has at a place, from one disk after the other, until `see`
    /// takes one. What cannot be read is passed over.
    pub(super) fn bytes<T>(
        &self,
        lost: Lost<'_>,
        range: Range<u64>,
        mut see: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        if lost.is_file || range.end - range.start > RANGE_LEN_MAX {
            return None;
        }
        let len = usize::try_from(range.end - range.start).ok()?;
        let mut buf = vec![0; len];
        match self {
            Self::Disk(donor) => {
                let is_asked = donor.snapshot.is_none_or(|id| id == lost.snapshot.id)
                    && donor.target == lost.target
                    && range.end <= donor.source.size();
                if !is_asked {
                    return None;
                }
                donor.source.read_at(range.start, &mut buf).ok()?;
                see(&buf)
            }
            Self::Repository(donor) => donor.images(lost).into_iter().find_map(|image| {
                if range.end > image.size() {
                    return None;
                }
                image.read_at(range.start, &mut buf).ok()?;
                see(&buf)
            }),
        }
    }
}
