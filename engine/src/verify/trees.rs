//! Whether all that snapshots refer to is there: every distinct recipe node once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem;
use std::time::Instant;

use super::nodes::{Nodes, search};
use super::report::{FaultKind, Findings, Wanted, describe};
use super::{VerifyError, VerifyOptions};
use crate::chunker::ChunkRef;
use crate::format::manifest::RecipeOf;
use crate::format::pack::PackKind;
use crate::id::{ContentId, NodeId, PackId};
use crate::progress::Cancel;
use crate::recipe::{NodePlace, NodeVisitor, Recipe, RecipeError, Shape};
use crate::repository::{Contents, RepositoryError, Snapshot};
use crate::storage::Name;

/// Chunks that are looked up at once: in the order of their packs, so that each footer is wanted
/// once. 3 MiB of ids.
const BATCH: usize = 64 * 1024;
/// Chunks in doubt that are looked for in all packs at once: a pass over all footers for every
/// 4 GiB lost, and 32 MiB of memory.
const SUSPECTS_MAX: usize = 256 * 1024;

/// Returns every recipe of `snapshots`, of disks and of files, whose size is one that a disk may
/// have.
pub(super) fn recipes<'s>(
    contents: &Contents,
    snapshots: &'s [&'s Snapshot],
) -> impl Iterator<Item = (&'s Snapshot, RecipeOf<'s>, Shape)> {
    let window_len = contents.repository().chunker().window_len();
    snapshots.iter().flat_map(move |snapshot| {
        // One that is not is a fault of the manifest's, found in `check`.
        snapshot.manifest.recipes().filter_map(move |recipe| {
            Some((*snapshot, recipe, Shape::new(recipe.size, window_len).ok()?))
        })
    })
}

/// Returns the packs in which the recipes of `snapshots`, and the chunks they refer to, should lie.
pub(super) fn packs(
    contents: &Contents,
    snapshots: &[&Snapshot],
    cancel: &Cancel,
    findings: &mut Findings,
) -> Result<Vec<PackId>, VerifyError> {
    let mut packs = BTreeSet::new();
    loop {
        let nodes = Nodes::new(contents, findings);
        let mut scout = Scout {
            contents,
            nodes: &nodes,
            cancel,
            seen: HashSet::new(),
            packs: HashSet::new(),
            failure: None,
        };
        for (_, recipe, shape) in recipes(contents, snapshots) {
            Recipe::new(&nodes, shape, recipe.root).visit(&mut scout);
        }
        let Scout {
            packs: found,
            failure,
            ..
        } = scout;
        let met = nodes.finish()?;
        if cancel.is_cancelled() {
            return Err(VerifyError::Cancelled);
        }
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        packs.extend(found);
        packs.extend(met.packs.iter().copied());
        if !met.resolve(contents, findings)? {
            return Ok(packs.into_iter().collect());
        }
    }
}

/// Learns in which packs things lie.
struct Scout<'v> {
    contents: &'v Contents,
    nodes: &'v Nodes<'v>,
    cancel: &'v Cancel,
    seen: HashSet<NodeId>,
    packs: HashSet<PackId>,
    failure: Option<RepositoryError>,
}

impl NodeVisitor for Scout<'_> {
    fn enter(&mut self, node: NodeId, _: NodePlace) -> bool {
        self.failure.is_none()
            && !self.nodes.has_failed()
            && !self.cancel.is_cancelled()
            && self.seen.insert(node)
    }

    fn leaf(&mut self, _: NodeId, _: NodePlace, chunks: &[ChunkRef]) {
        let ids: Vec<ContentId> = chunks.iter().map(|chunk| chunk.id.into()).collect();
        match self.contents.places(&ids) {
            Ok(places) => self
                .packs
                .extend(places.iter().flatten().map(|(pack, _)| *pack)),
            Err(error) => drop(self.failure.get_or_insert(error)),
        }
    }

    fn fault(&mut self, _: RecipeError) {
        // Found again by `check`, and named there.
    }
}

/// Follows the recipes of all disks and files of `snapshots`, and adds a fault for all that is
/// lost. Returns whether it came to the end before `until`; nothing is known otherwise.
pub(super) fn check(
    contents: &Contents,
    snapshots: &[&Snapshot],
    options: &VerifyOptions<'_>,
    until: Option<Instant>,
    findings: &mut Findings,
) -> Result<bool, VerifyError> {
    let window_len = contents.repository().chunker().window_len();
    for snapshot in snapshots {
        for recipe in snapshot.manifest.recipes() {
            if let Err(error) = Shape::new(recipe.size, window_len) {
                findings.document(Name::Snapshot(snapshot.id), &error);
            }
        }
    }
    loop {
        let nodes = Nodes::new(contents, findings);
        let mut walk = Walk::new(contents, findings, &nodes, options);
        walk.until = until;
        for (_, recipe, shape) in recipes(contents, snapshots) {
            walk.at = recipe.to_string();
            Recipe::new(&nodes, shape, recipe.root).visit(&mut walk);
        }
        let is_cut = walk.is_cut;
        let walked = walk.finish();
        let met = nodes.finish()?;
        let walked = walked?;
        if is_cut {
            return Ok(false);
        }
        if !met.resolve(contents, findings)? {
            add(contents, walked, findings);
            return Ok(true);
        }
        // What was found is walked with all the rest, once more for each level of a tree at most.
        findings.saved.extend(walked.saved);
    }
}

/// What a walk found out about chunks.
#[derive(Default)]
struct Walked {
    saved: HashSet<Wanted>,
    /// Packs that have lost chunks, and may not have a fault yet.
    losers: BTreeSet<PackId>,
    /// Chunks that no pack has, nor had.
    missing: u64,
    has_lost: bool,
    /// Nodes that break a rule, and how.
    broken: HashMap<NodeId, (String, String)>,
}

struct Walk<'v> {
    contents: &'v Contents,
    findings: &'v Findings,
    nodes: &'v Nodes<'v>,
    options: &'v VerifyOptions<'v>,
    seen: HashSet<(NodeId, NodePlace)>,
    batch: Vec<Wanted>,
    /// Chunks that are not whole where the index says, with the pack that it says.
    suspects: HashMap<Wanted, Option<PackId>>,
    walked: Walked,
    failure: Option<VerifyError>,
    /// The disk or file that is being followed.
    at: String,
    /// When the walk ends, wherever it is.
    until: Option<Instant>,
    /// Whether it ended so.
    is_cut: bool,
}

impl NodeVisitor for Walk<'_> {
    fn enter(&mut self, node: NodeId, place: NodePlace) -> bool {
        self.is_cut |= self.until.is_some_and(|until| Instant::now() >= until);
        self.failure.is_none()
            && !self.is_cut
            && !self.nodes.has_failed()
            && !self.options.cancel.is_cancelled()
            && self.seen.insert((node, place))
    }

    fn leaf(&mut self, _: NodeId, _: NodePlace, chunks: &[ChunkRef]) {
        self.batch
            .extend(chunks.iter().map(|chunk| (chunk.id.into(), chunk.len)));
        if self.batch.len() >= BATCH
            && let Err(error) = self.look_up()
        {
            self.failure.get_or_insert(error);
        }
    }

    fn fault(&mut self, fault: RecipeError) {
        // The others are known to `Nodes`: suspects, or failures that are no faults.
        if let RecipeError::Inconsistent { node, .. } = &fault {
            let object = format!("recipe node {node} of {}", self.at);
            let broken = (object, describe(&fault));
            self.walked.broken.entry(*node).or_insert(broken);
        }
    }
}

impl<'v> Walk<'v> {
    fn new(
        contents: &'v Contents,
        findings: &'v Findings,
        nodes: &'v Nodes<'v>,
        options: &'v VerifyOptions<'v>,
    ) -> Self {
        Self {
            contents,
            findings,
            nodes,
            options,
            seen: HashSet::new(),
            batch: Vec::new(),
            suspects: HashMap::new(),
            walked: Walked::default(),
            failure: None,
            at: String::new(),
            until: None,
            is_cut: false,
        }
    }

    fn finish(mut self) -> Result<Walked, VerifyError> {
        if self.options.cancel.is_cancelled() {
            return Err(VerifyError::Cancelled);
        }
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if !self.is_cut {
            self.look_up()?;
            self.resolve()?;
        }
        Ok(self.walked)
    }

    /// Looks the batch up, and notes what is not whole where the index says.
    fn look_up(&mut self) -> Result<(), VerifyError> {
        let mut batch = mem::take(&mut self.batch);
        batch.sort_unstable();
        batch.dedup();
        let ids: Vec<ContentId> = batch.iter().map(|(id, _)| *id).collect();
        let places = self.contents.places(&ids)?;
        let mut found = Vec::with_capacity(batch.len());
        for (wanted, place) in batch.into_iter().zip(places) {
            match place {
                Some((pack, place)) => found.push((pack, place, wanted)),
                None => drop(self.suspects.insert(wanted, None)),
            }
        }
        found.sort_unstable_by_key(|(pack, place, _)| (*pack, place.frame, place.slot));
        for (pack, place, wanted) in found {
            if !self.findings.is_whole(self.contents, wanted, pack, &place)
                && !self.findings.saved.contains(&wanted)
            {
                self.suspects.insert(wanted, Some(pack));
            }
        }
        match self.suspects.len() >= SUSPECTS_MAX {
            true => self.resolve(),
            false => Ok(()),
        }
    }

    /// Looks for all suspects in the footers of all packs, in one pass.
    fn resolve(&mut self) -> Result<(), VerifyError> {
        if self.suspects.is_empty() {
            return Ok(());
        }
        let suspects = mem::take(&mut self.suspects);
        let ids = suspects.keys().map(|(id, _)| *id).collect();
        let copies = search(self.contents, &ids)?;
        for (wanted, pack) in suspects {
            let (id, len) = wanted;
            let whole = copies.of(id).iter().any(|(pack, place)| {
                let is_read = self.options.metadata_only || self.findings.read_packs.contains(pack);
                // What lies in a pack that was not read is read now.
                place.len == len
                    && !self.findings.is_bad_copy(id, *pack)
                    && (is_read || self.contents.holds(PackKind::Data, id, *pack, place))
            });
            if whole {
                self.walked.saved.insert(wanted);
                continue;
            }
            self.walked.has_lost = true;
            match pack.filter(|pack| self.findings.is_bad_copy(id, *pack)) {
                Some(pack) => drop(self.walked.losers.insert(pack)),
                None => self.walked.missing += 1,
            }
        }
        Ok(())
    }
}

/// Makes faults of what is lost: each pack that lost something has one, and all else together.
fn add(contents: &Contents, walked: Walked, findings: &mut Findings) {
    findings.saved.extend(walked.saved);
    findings.has_lost_chunks = walked.has_lost;
    for (node, (object, message)) in walked.broken {
        let fault = findings.add(object, FaultKind::Content, message);
        findings.broken_nodes.insert(node, fault);
    }
    let losers = findings.lost_nodes.values().flatten().copied();
    let losers: BTreeSet<PackId> = losers.chain(walked.losers).collect();
    for pack in losers {
        if findings.is_faulty(pack) {
            continue;
        }
        let message = findings.node_messages.get(&pack).cloned();
        match message.filter(|_| !findings.gone_packs.contains(&pack)) {
            Some(message) => findings.pack(pack, FaultKind::Content, &message),
            None => findings.pack(pack, FaultKind::Missing, "it is not there any more"),
        };
    }
    let nodes = findings
        .lost_nodes
        .values()
        .filter(|pack| pack.is_none())
        .count();
    let missing = match (walked.missing, nodes) {
        (0, 0) => return,
        (chunks, 0) => format!("{chunks} chunks are in no readable pack"),
        (0, nodes) => format!("{nodes} recipe nodes are in no readable pack"),
        (chunks, nodes) => {
            format!("{chunks} chunks and {nodes} recipe nodes are in no readable pack")
        }
    };
    findings.missing = Some(blame(contents, findings, &missing));
}

/// Adds the fault for what no pack has: of the one pack that may have had it, or else of the
/// recipes that refer to it.
fn blame(contents: &Contents, findings: &mut Findings, message: &str) -> usize {
    let dropped = &contents.index_report().dropped;
    let gone: HashSet<PackId> = findings.gone_packs.iter().chain(dropped).copied().collect();
    let mut suspects = findings.bad_packs.union(&gone).copied();
    match (suspects.next(), suspects.next()) {
        (Some(pack), None) if findings.is_faulty(pack) || !gone.contains(&pack) => {
            findings.pack(pack, FaultKind::Missing, message)
        }
        (Some(pack), None) => {
            let message = format!("it is not there; {message}");
            findings.pack(pack, FaultKind::Missing, &message)
        }
        _ => findings.add("recipes".to_owned(), FaultKind::Missing, message.to_owned()),
    }
}
