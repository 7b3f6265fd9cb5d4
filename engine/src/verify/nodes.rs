//! Recipe nodes as verify reads them: by the index alone. Those that cannot be had so are noted,
//! and looked for in all packs at once when the walk is over.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::VerifyError;
use super::report::{Findings, describe};
use crate::format::recipe::Node;
use crate::id::{ContentId, NodeId, PackId};
use crate::recipe::{NodeError, NodeStore};
use crate::repository::{Contents, Copies, RepositoryError};

/// The nodes of one walk.
pub(super) struct Nodes<'v> {
    contents: &'v Contents,
    findings: &'v Findings,
    met: Mutex<Met>,
}

/// What a walk came across.
#[derive(Default)]
pub(super) struct Met {
    /// Nodes that are not whole where the index says, with the pack that it says.
    suspects: HashMap<NodeId, Option<PackId>>,
    /// What the first suspect of each pack showed.
    messages: HashMap<PackId, String>,
    /// The packs in which nodes lie.
    pub(super) packs: HashSet<PackId>,
    /// What says nothing about any node.
    failure: Option<RepositoryError>,
}

impl<'v> Nodes<'v> {
    pub(super) fn new(contents: &'v Contents, findings: &'v Findings) -> Self {
        Self {
            contents,
            findings,
            met: Mutex::default(),
        }
    }

    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether reading failed in a way that says nothing about the nodes.
    pub(super) fn has_failed(&self) -> bool {
        self.met().failure.is_some()
    }

    /// Ends the walk.
    pub(super) fn finish(self) -> Result<Met, VerifyError> {
        let mut met = self
            .met
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match met.failure.take() {
            Some(failure) => Err(failure.into()),
            None => Ok(met),
        }
    }

    fn suspect(&self, id: NodeId, pack: Option<PackId>, error: Option<&RepositoryError>) {
        let mut met = self.met();
        met.suspects.insert(id, pack);
        if let (Some(pack), Some(error)) = (pack, error) {
            let message = || format!("recipe node {id}: {}", describe(error));
            met.messages.entry(pack).or_insert_with(message);
        }
    }

    fn read(&self, id: NodeId) -> Result<Option<Arc<Node>>, RepositoryError> {
        let saved = self.findings.saved_nodes.get(&id).copied();
        let place = match saved {
            Some(saved) => Some(saved),
            None => self
                .contents
                .places(&[id.into()])?
                .into_iter()
                .flatten()
                .next(),
        };
        let Some((pack, place)) = place else {
            self.suspect(id, None, None);
            return Ok(None);
        };
        self.met().packs.insert(pack);
        if self.findings.is_bad_copy(id.into(), pack) {
            self.suspect(id, Some(pack), None);
            return Ok(None);
        }
        match self.contents.node_at(id, pack, &place) {
            Ok(node) => Ok(Some(node)),
            Err(RepositoryError::Pack(error)) if error.is_shortage() => Err(error.into()),
            Err(error) => {
                self.suspect(id, Some(pack), Some(&error));
                Ok(None)
            }
        }
    }
}

impl NodeStore for Nodes<'_> {
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        if self.findings.lost_nodes.contains_key(&id) {
            return Err(NodeError::Missing);
        }
        match self.read(id) {
            Ok(node) => node.ok_or(NodeError::Missing),
            Err(failure) => {
                let source = describe(&failure).into();
                self.met().failure.get_or_insert(failure);
                Err(NodeError::Failed { source })
            }
        }
    }

    fn empty_leaf(&self) -> NodeId {
        self.contents.empty_leaf()
    }
}

impl Met {
    /// Looks for all suspects at once. Returns whether any has a whole copy elsewhere: then what is
    /// below it is still to be walked.
    pub(super) fn resolve(
        self,
        contents: &Contents,
        findings: &mut Findings,
    ) -> Result<bool, VerifyError> {
        if self.suspects.is_empty() {
            return Ok(false);
        }
        let ids = self.suspects.keys().map(|id| (*id).into()).collect();
        let copies = search(contents, &ids)?;
        let mut has_saved = false;
        for (id, pack) in self.suspects {
            let content: ContentId = id.into();
            // One that was found before and is not whole now is not looked for for ever.
            let is_new = !findings.saved_nodes.contains_key(&id);
            let whole = copies.of(content).iter().find(|(pack, place)| {
                is_new
                    && !findings.is_bad_copy(content, *pack)
                    && contents.node_at(id, *pack, place).is_ok()
            });
            match whole {
                Some(copy) => {
                    findings.saved_nodes.insert(id, *copy);
                    has_saved = true;
                }
                None => {
                    findings.lost_nodes.insert(id, pack);
                }
            }
        }
        for (pack, message) in self.messages {
            findings.node_messages.entry(pack).or_insert(message);
        }
        Ok(has_saved)
    }
}

/// Finds every copy of `ids`. Packs that are out of reach hold nothing for verify, which names them
/// as faults; but what this process lacks ends it.
pub(super) fn search(contents: &Contents, ids: &HashSet<ContentId>) -> Result<Copies, VerifyError> {
    let mut copies = contents.copies(ids)?;
    match copies.take_unreachable() {
        Some(error) if error.is_shortage() => Err(RepositoryError::from(error).into()),
        _ => Ok(copies),
    }
}
