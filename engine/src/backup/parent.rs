//! What of a parent can be kept: known before anything of it is, and never assumed.
//!
//! A subtree that the source calls unchanged is taken over by its id, unread. So all that is below
//! it must be in the repository: the nodes and the chunks. Either this client remembers which packs
//! the parent's recipe needs, and all of these are there; or the recipe is walked from end to end,
//! and each chunk and node is looked up.

use std::ops::Range;

use super::BackupError;
use super::disk::Disk;
use super::request::{Doubt, Warning};
use crate::chunker::ChunkRef;
use crate::extent::ExtentStatus;
use crate::id::{ContentId, NodeId};
use crate::index::PackPrefix;
use crate::progress::Cancel;
use crate::recipe::{NodePlace, NodeSink, NodeStore, NodeVisitor, Recipe, RecipeError};
use crate::repository::{Fetcher, Intake, Lies, Needs, RepositoryError};

/// Ids that are looked up at once.
const BATCH: usize = 4096;
/// Most ranges that are read again for what the parent has lost. Where there are more, all of the
/// disk is read.
const LOST_MAX: usize = 64 * 1024;

/// What is kept of a parent.
pub(super) struct Kept {
    /// The packs in which all of it lies; `None` where these are not all known.
    pub(super) needs: Option<Needs>,
    /// The disk ranges of what is lost, ascending: they are read again.
    lost: Vec<Range<u64>>,
}

/// Nothing, of which all is known.
impl Default for Kept {
    fn default() -> Self {
        Self {
            needs: Some(Needs::default()),
            lost: Vec::new(),
        }
    }
}

impl Kept {
    /// Returns the parts of a range that are lost.
    pub(super) fn lost_in(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let (start, end) = (range.start, range.end);
        let first = self.lost.partition_point(|lost| lost.end <= start);
        let lost = self.lost.iter().skip(first);
        let lost = lost.take_while(move |lost| lost.start < end);
        lost.map(move |lost| lost.start.max(start)..lost.end.min(end))
    }

    fn lose(&mut self, range: Range<u64>) {
        match self.lost.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => self.lost.push(range),
        }
    }
}

impl Disk<'_> {
    /// Keeps what can be kept, and says what is to be read again.
    pub(super) fn keep(&mut self, kept: Kept, warnings: &mut Vec<Warning>) {
        let bytes = kept.lost.iter().map(|lost| lost.end - lost.start).sum();
        if bytes > 0 {
            warnings.push(Warning {
                target: self.target.to_owned(),
                doubt: Doubt::ParentLacks { bytes },
            });
        }
        self.kept = kept;
    }

    /// Returns what of the parent can be kept; `None` where nothing can, since what is lost cannot
    /// be told or is not to be had from the source.
    ///
    /// Nodes that lie in damaged packs only are stored anew: they were just read.
    pub(super) fn look_at_parent(
        &self,
        intake: &Intake,
        cancel: &Cancel,
    ) -> Result<Option<Kept>, BackupError> {
        let Some(parent) = self.parent.as_ref().filter(|parent| !parent.is_empty()) else {
            return Ok(Some(Kept::default()));
        };
        let repository = self.contents.repository();
        let known = repository.needs(parent.root());
        if let Some(needs) = known.filter(|needs| self.contents.has_all(needs)) {
            return Ok(Some(Kept {
                needs: Some(needs),
                lost: Vec::new(),
            }));
        }
        let mut walk = Walk::new(self, parent, cancel);
        parent.visit(&mut walk);
        walk.settle();
        if let Some(failure) = walk.failure {
            return Err(failure);
        }
        if walk.is_broken {
            return Ok(None);
        }
        let is_whole = walk.kept.lost.is_empty() && walk.bad_nodes.is_empty();
        // What is to be read anew may take hours, and fail.
        if let Some(needs) = walk.kept.needs.as_ref().filter(|_| is_whole) {
            repository.remember_needs(parent.root(), needs);
        }
        self.store_nodes(intake, &walk.bad_nodes)?;
        Ok(Some(walk.kept))
    }

    fn store_nodes(
        &self,
        intake: &Intake,
        nodes: &[(NodeId, NodePlace)],
    ) -> Result<(), BackupError> {
        let mut writer = intake.node_writer();
        let window_len = self.contents.repository().chunker().window_len();
        for &(node, place) in nodes {
            let unreadable = |source| RecipeError::Unreadable {
                node,
                place,
                source,
            };
            let read = self.contents.node(node).map_err(unreadable);
            let read = read.map_err(|error| self.recipe_error(error))?;
            let encoded = read.encode(window_len).map_err(BackupError::Manifest)?;
            let stored = writer.put(node, encoded);
            stored.map_err(|source| {
                self.recipe_error(RecipeError::Unwritable {
                    node,
                    place,
                    source,
                })
            })?;
        }
        Ok(writer.flush()?)
    }
}

/// A walk through a parent's recipe.
struct Walk<'w> {
    disk: &'w Disk<'w>,
    parent: &'w Recipe<'w>,
    cancel: &'w Cancel,
    /// Disk bytes behind this are not kept in any case.
    end: u64,
    /// What is yet to be looked up.
    chunks: Vec<ChunkRef>,
    nodes: Vec<(NodeId, NodePlace)>,
    kept: Kept,
    /// Nodes that can be read and should be stored anew.
    bad_nodes: Vec<(NodeId, NodePlace)>,
    /// Whether nothing can be kept.
    is_broken: bool,
    failure: Option<BackupError>,
}

impl<'w> Walk<'w> {
    fn new(disk: &'w Disk<'w>, parent: &'w Recipe<'w>, cancel: &'w Cancel) -> Self {
        Self {
            disk,
            parent,
            cancel,
            end: parent.shape().size().min(disk.shape.size()),
            chunks: Vec::new(),
            nodes: Vec::new(),
            kept: Kept::default(),
            bad_nodes: Vec::new(),
            is_broken: false,
            failure: None,
        }
    }

    fn is_over(&self) -> bool {
        self.is_broken || self.failure.is_some()
    }

    /// Looks up what was collected.
    fn settle(&mut self) {
        if let Err(error) = self.look_up() {
            self.failure.get_or_insert(error);
        }
    }

    fn look_up(&mut self) -> Result<(), BackupError> {
        let (chunks, nodes) = (
            std::mem::take(&mut self.chunks),
            std::mem::take(&mut self.nodes),
        );
        if self.is_over() {
            return Ok(());
        }
        if self.cancel.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let ids = nodes.iter().map(|(node, _)| ContentId::from(*node));
        let ids = ids.chain(chunks.iter().map(|chunk| chunk.id.into()));
        let ids: Vec<ContentId> = ids.collect();
        let lies = self.disk.contents.lie(&ids)?;
        let (of_nodes, of_chunks) = lies.split_at(nodes.len());
        for (node, lies) in nodes.into_iter().zip(of_nodes) {
            match lies {
                Lies::In(pack) => self.need(Some(*pack)),
                Lies::Damaged(_) | Lies::Nowhere => self.bad_nodes.push(node),
            }
        }
        let mut lost = Vec::new();
        for (chunk, lies) in chunks.into_iter().zip(of_chunks) {
            match lies {
                Lies::In(pack) => self.need(Some(*pack)),
                lies => lost.push((chunk, *lies)),
            }
        }
        match self.disk.source.has_unchanged() {
            true => {
                for (chunk, _) in lost {
                    self.kept.lose(chunk.offset..chunk.end().min(self.end));
                }
                self.is_broken |= self.kept.lost.len() > LOST_MAX;
                Ok(())
            }
            false => self.try_lost(&lost),
        }
    }

    /// Looks whether what is lost, or seems to be, can be had all the same: the source does not
    /// have it.
    fn try_lost(&mut self, lost: &[(ChunkRef, Lies)]) -> Result<(), BackupError> {
        let mut wanted = Vec::new();
        for (chunk, lies) in lost {
            let range = chunk.offset..chunk.end().min(self.end);
            let extents = self.disk.source.extents(range);
            let extents = extents.map_err(|error| self.disk.source_error(error))?;
            let mut extents = extents.iter();
            if extents.any(|extent| extent.status == ExtentStatus::Unchanged) {
                wanted.push(*chunk);
                self.need(match lies {
                    Lies::In(pack) | Lies::Damaged(pack) => Some(*pack),
                    Lies::Nowhere => None,
                });
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut ignore = |_: u64, _: &[u8]| Ok::<(), RepositoryError>(());
        let contents = self.disk.contents;
        match contents.fetch(&wanted, &mut Fetcher::default(), &mut ignore) {
            Ok(()) => Ok(()),
            Err(error) if error.is_damage() => {
                self.is_broken = true;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes a pack that is needed; `None` for one that nobody knows.
    fn need(&mut self, pack: Option<PackPrefix>) {
        match (pack, &mut self.kept.needs) {
            (Some(pack), Some(needs)) => needs.insert(pack),
            (None, needs) => *needs = None,
            (Some(_), None) => {}
        }
    }
}

impl NodeVisitor for Walk<'_> {
    fn enter(&mut self, node: NodeId, place: NodePlace) -> bool {
        if self.is_over() || self.parent.shape().bytes(place).start >= self.end {
            return false;
        }
        self.nodes.push((node, place));
        if self.nodes.len() + self.chunks.len() >= BATCH {
            self.settle();
        }
        !self.is_over()
    }

    fn leaf(&mut self, _: NodeId, _: NodePlace, chunks: &[ChunkRef]) {
        let kept = chunks.iter().filter(|chunk| chunk.offset < self.end);
        self.chunks.extend(kept);
    }

    fn fault(&mut self, fault: RecipeError) {
        match fault.is_damage() {
            true => self.is_broken = true,
            false => {
                let failure = self.disk.recipe_error(fault);
                self.failure.get_or_insert(failure);
            }
        }
    }
}
