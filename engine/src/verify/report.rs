//! What verify found.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::ops::Range;

use super::turn::Coverage;
use crate::id::{ContentId, NodeId, PackId, SnapshotId};
use crate::index::Place;
use crate::repository::Contents;
use crate::storage::Name;

/// Everything that a verify found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Every damaged object, in no order.
    pub faults: Vec<Fault>,
    /// Snapshots whose recipes were followed.
    pub snapshots: u64,
    /// Those of which every chunk and node was read, and none found damaged or missing.
    pub whole: Vec<SnapshotId>,
    /// Packs whose footers were checked.
    pub packs: u64,
    /// Stored bytes of packs that were read and re-hashed.
    pub checked_bytes: u64,
    /// Chunks and nodes that were decoded and re-hashed.
    pub checked_contents: u64,
    /// Manifests, notes and key slots whose stored bytes were compared with their names. Counted
    /// where nothing but stored bytes is verified.
    pub documents: u64,
    /// Packs read without parity, where the repository's settings want it. No damage: a repair
    /// makes it.
    pub without_parity: u64,
    /// Whether the time was over before all footers were read and all recipes followed: what is
    /// missing altogether may not have been found.
    pub is_cut: bool,
    /// How much of the packs was read, now and before.
    pub coverage: Coverage,
}

/// One damaged object.
#[derive(Debug)]
pub struct Fault {
    /// The object, as a path below the repository's root, or what refers to what is missing.
    pub object: String,
    /// What kind of damage it is.
    pub kind: FaultKind,
    /// What is wrong, for people.
    pub message: String,
    /// Whom it hurts. Empty where every snapshot can still be read.
    pub hurts: Vec<Hurt>,
}

/// A kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A manifest, note or key slot cannot be read.
    Document,
    /// A pack cannot be read at all.
    Pack,
    /// Frames or contents of a pack are damaged or out of reach, or a recipe breaks a rule.
    Content,
    /// A pack is gone, or something referred to is in no pack.
    Missing,
    /// The parity of a pack is damaged. It hurts nobody, and a repair makes it anew.
    Parity,
    /// The index says other than the packs. It hurts nobody, and deleting the index heals it.
    Index,
}

/// Bytes of a disk or file that cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hurt {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its VM.
    pub vm: String,
    /// The disk, or the file's name.
    pub target: String,
    /// Whether it is a file that was kept with the disks.
    pub is_file: bool,
    /// The bytes.
    pub range: Range<u64>,
}

/// A chunk that a recipe refers to, by id and length.
pub(super) type Wanted = (ContentId, u32);

/// A report in the making, with what is needed to tell whom a fault hurts.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) report: VerifyReport,
    /// Damaged copies: content, and the pack whose copy it is.
    pub(super) bad_copies: HashSet<(ContentId, PackId)>,
    /// Packs of which nothing can be read.
    pub(super) bad_packs: HashSet<PackId>,
    /// Packs that were listed, and are not there any more.
    pub(super) gone_packs: HashSet<PackId>,
    /// Packs whose data was read, so that what is not among the bad copies is whole.
    pub(super) read_packs: HashSet<PackId>,
    /// The fault of each pack that has one.
    pack_faults: HashMap<PackId, usize>,
    /// Whole copies of nodes that are not whole where the index says.
    pub(super) saved_nodes: HashMap<NodeId, (PackId, Place)>,
    /// Nodes of which no whole copy is left, with the pack that lost them, where it is known.
    pub(super) lost_nodes: HashMap<NodeId, Option<PackId>>,
    /// What the first lost node of a pack showed.
    pub(super) node_messages: HashMap<PackId, String>,
    /// Nodes that cannot stand where they do, with their faults.
    pub(super) broken_nodes: HashMap<NodeId, usize>,
    /// Chunks with a whole copy, though not where the index says.
    pub(super) saved: HashSet<Wanted>,
    /// Whether there are chunks of which no whole copy is left.
    pub(super) has_lost_chunks: bool,
    /// The fault that stands for all that is in no pack.
    pub(super) missing: Option<usize>,
}

impl Findings {
    pub(super) fn add(&mut self, object: String, kind: FaultKind, message: String) -> usize {
        self.report.faults.push(Fault {
            object,
            kind,
            message,
            hurts: Vec::new(),
        });
        self.report.faults.len() - 1
    }

    /// Adds a document that cannot be read.
    pub(super) fn document(&mut self, name: Name, error: &dyn Error) {
        self.add(name.path(), FaultKind::Document, describe(error));
    }

    /// Adds a fault of a pack. What is found of the same pack later is joined to it.
    pub(super) fn pack(&mut self, pack: PackId, kind: FaultKind, message: &str) -> usize {
        if let Some(&fault) = self.pack_faults.get(&pack) {
            let known = &mut self.report.faults[fault].message;
            known.push_str("; ");
            known.push_str(message);
            return fault;
        }
        let fault = self.add(Name::Pack(pack).path(), kind, message.to_owned());
        self.pack_faults.insert(pack, fault);
        fault
    }

    /// Returns whether a pack has a fault already.
    pub(super) fn is_faulty(&self, pack: PackId) -> bool {
        self.pack_faults.contains_key(&pack)
    }

    /// Returns whether a pack's copy is known to be of no use.
    pub(super) fn is_bad_copy(&self, id: ContentId, pack: PackId) -> bool {
        self.bad_packs.contains(&pack)
            || self.gone_packs.contains(&pack)
            || self.bad_copies.contains(&(id, pack))
    }

    /// Returns whether a chunk is whole where the index says that it is, as far as it was read.
    pub(super) fn is_whole(
        &self,
        contents: &Contents,
        (id, len): Wanted,
        pack: PackId,
        place: &Place,
    ) -> bool {
        !self.is_bad_copy(id, pack)
            && contents.footer(pack).is_ok_and(|reader| {
                reader
                    .slot_range(place, id)
                    .is_some_and(|at| at.len() == len as usize)
            })
    }

    /// Returns the fault that lost a chunk whose copy was in `pack` by the index.
    pub(super) fn chunk_fault(&self, id: ContentId, pack: Option<PackId>) -> Option<usize> {
        let blamed = pack.filter(|pack| self.is_bad_copy(id, *pack));
        let fault = blamed.and_then(|pack| self.pack_faults.get(&pack));
        fault.copied().or(self.missing)
    }

    /// Returns the fault that lost a node, if it is lost.
    pub(super) fn node_fault(&self, node: NodeId) -> Option<usize> {
        if let Some(&fault) = self.broken_nodes.get(&node) {
            return Some(fault);
        }
        let fault = self
            .lost_nodes
            .get(&node)?
            .and_then(|pack| self.pack_faults.get(&pack));
        fault.copied().or(self.missing)
    }

    /// Returns whether the index says other than the packs.
    pub(super) fn has_index_fault(&self) -> bool {
        let mut faults = self.report.faults.iter();
        faults.any(|fault| fault.kind == FaultKind::Index)
    }

    /// Returns whether a fault may hurt a snapshot.
    pub(super) fn hurts_any(&self) -> bool {
        self.has_lost_chunks || !self.lost_nodes.is_empty() || !self.broken_nodes.is_empty()
    }
}

/// Returns an error and its causes in one line.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
