//! Whom damage hurts: every range of every disk and file that needs something lost.

use std::collections::HashSet;
use std::ops::Range;

use super::VerifyError;
use super::nodes::Nodes;
use super::report::{Findings, Hurt};
use super::trees::recipes;
use crate::chunker::ChunkRef;
use crate::format::manifest::RecipeOf;
use crate::id::{ContentId, NodeId};
use crate::limits::REGION_LEN;
use crate::progress::Cancel;
use crate::recipe::{NodePlace, NodeVisitor, Recipe, RecipeError, Shape};
use crate::repository::{Contents, RepositoryError, Snapshot};

/// Walks the recipes of `snapshots` and adds the ranges hurt to each fault.
pub(super) fn attribute(
    contents: &Contents,
    snapshots: &[&Snapshot],
    cancel: &Cancel,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let chunk_len_max = contents.repository().chunker().cut_params().max().into();
    let mut whole = HashSet::new();
    for (snapshot, recipe, shape) in recipes(contents, snapshots) {
        let nodes = Nodes::new(contents, findings);
        let mut visitor = Visitor {
            contents,
            findings,
            nodes: &nodes,
            cancel,
            shape,
            chunk_len_max,
            whole: &mut whole,
            hurts: Vec::new(),
            tail: None,
            failure: None,
        };
        Recipe::new(&nodes, shape, recipe.root).visit(&mut visitor);
        visitor.close_tail(recipe.size);
        let Visitor { hurts, failure, .. } = visitor;
        nodes.finish()?;
        if cancel.is_cancelled() {
            return Err(VerifyError::Cancelled);
        }
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        for (fault, range) in hurts {
            add(findings, fault, snapshot, &recipe, range);
        }
    }
    Ok(())
}

fn add(
    findings: &mut Findings,
    fault: usize,
    snapshot: &Snapshot,
    recipe: &RecipeOf<'_>,
    range: Range<u64>,
) {
    let (target, is_file) = (recipe.name, recipe.is_file);
    let hurts = &mut findings.report.faults[fault].hurts;
    if let Some(last) = hurts.last_mut()
        && last.snapshot == snapshot.id
        && last.target == target
        && last.is_file == is_file
        && last.range.end == range.start
    {
        last.range.end = range.end;
        return;
    }
    let (vm, target) = (snapshot.manifest.vm.clone(), target.to_owned());
    hurts.push(Hurt {
        snapshot: snapshot.id,
        vm,
        target,
        is_file,
        range,
    });
}

struct Visitor<'v> {
    contents: &'v Contents,
    findings: &'v Findings,
    nodes: &'v Nodes<'v>,
    cancel: &'v Cancel,
    shape: Shape,
    chunk_len_max: u64,
    /// Leaves that need nothing lost, whatever the snapshot.
    whole: &'v mut HashSet<NodeId>,
    hurts: Vec<(usize, Range<u64>)>,
    /// The end of a lost node, with its fault: its last chunk may have reached beyond.
    tail: Option<(usize, u64)>,
    failure: Option<RepositoryError>,
}

impl Visitor<'_> {
    /// Returns the ranges of those chunks that are lost, each with its fault.
    fn lost(&self, chunks: &[ChunkRef]) -> Result<Vec<(usize, Range<u64>)>, RepositoryError> {
        let ids: Vec<ContentId> = chunks.iter().map(|chunk| chunk.id.into()).collect();
        let places = self.contents.places(&ids)?;
        let mut lost = Vec::new();
        for (chunk, place) in chunks.iter().zip(places) {
            let wanted = (chunk.id.into(), chunk.len);
            let is_whole = place.is_some_and(|(pack, place)| {
                self.findings.is_whole(self.contents, wanted, pack, &place)
            });
            if is_whole || self.findings.saved.contains(&wanted) {
                continue;
            }
            let pack = place.map(|(pack, _)| pack);
            if let Some(fault) = self.findings.chunk_fault(wanted.0, pack) {
                lost.push((fault, chunk.offset..chunk.end()));
            }
        }
        Ok(lost)
    }

    /// Names what a lost node's last chunk may have held beyond the node: at most up to `next`,
    /// where the next chunk that is known starts.
    fn close_tail(&mut self, next: u64) {
        if let Some((fault, end)) = self.tail.take()
            && !end.is_multiple_of(REGION_LEN)
        {
            let reach = (end + self.chunk_len_max - 1).min(end.next_multiple_of(REGION_LEN));
            let until = reach.min(self.shape.size()).min(next);
            if end < until {
                self.hurts.push((fault, end..until));
            }
        }
    }
}

impl NodeVisitor for Visitor<'_> {
    fn enter(&mut self, node: NodeId, place: NodePlace) -> bool {
        if self.failure.is_some() || self.nodes.has_failed() || self.cancel.is_cancelled() {
            return false;
        }
        if let Some(fault) = self.findings.node_fault(node) {
            let range = self.shape.bytes(place);
            self.close_tail(range.start);
            self.tail = Some((fault, range.end));
            self.hurts.push((fault, range));
            return false;
        }
        // Where a node before it is lost, the first chunk tells how far that one could reach.
        self.tail.is_some() || !self.whole.contains(&node)
    }

    fn leaf(&mut self, node: NodeId, _: NodePlace, chunks: &[ChunkRef]) {
        if let Some(first) = chunks.first() {
            self.close_tail(first.offset);
        }
        match self.lost(chunks) {
            Ok(lost) if lost.is_empty() => drop(self.whole.insert(node)),
            Ok(lost) => self.hurts.extend(lost),
            Err(error) => drop(self.failure.get_or_insert(error)),
        }
    }

    fn fault(&mut self, _: RecipeError) {
        // Known from the first walk, and attributed on entering.
    }
}
