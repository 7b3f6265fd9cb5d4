//! Fetches what is lost from donors, by the ranges of disks that it hurts.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::chunker::ChunkRef;
use crate::id::{ContentId, NodeId};
use crate::pack::Framer;
use crate::recipe::{NodePlace, NodeSink, NodeVisitor, Recipe, RecipeError, Shape};
use crate::repository::{Contents, Intake, Snapshot};
use crate::verify::Hurt;

use super::donor::{Donor, Lost};
use super::rebuild::Rebuilder;
use super::{RepairError, RepairOptions, RepairReport};

/// Stores anew what donors have of what hurts by the report. Returns how much that was.
///
/// # Durability
///
/// On return it is durable.
pub(super) fn heal(
    contents: &Arc<Contents>,
    snapshots: &[Snapshot],
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<u64, RepairError> {
    let intake = Intake::start(contents)?;
    let mut healer = Healer {
        contents,
        intake: &intake,
        framer: intake.framer(),
        rebuilder: Rebuilder::new(contents.repository()),
        options,
        found_ids: HashSet::new(),
        healed: 0,
    };
    let hurts = report.remaining.iter().flat_map(|fault| &fault.hurts);
    let mut done = Ok(());
    for hurt in hurts {
        done = healer.hurt(hurt, snapshots);
        if done.is_err() {
            break;
        }
    }
    if let (Ok(()), Some(frame)) = (&done, healer.framer.flush()) {
        done = intake.store(frame).map_err(RepairError::from);
    }
    let healed = healer.healed;
    let stats = intake.finish()?;
    done?;
    for stats in [&stats.data, &stats.nodes] {
        report.written_packs += stats.packs.len() as u64;
        report.written_bytes += stats.stored_bytes;
    }
    report.healed += healed;
    Ok(healed)
}

struct Healer<'h> {
    contents: &'h Contents,
    intake: &'h Intake,
    framer: Framer,
    rebuilder: Rebuilder<'h>,
    options: &'h RepairOptions<'h>,
    /// What was found: what was not may lie elsewhere on another disk.
    found_ids: HashSet<ContentId>,
    healed: u64,
}

/// What of a range of a disk is to be looked for.
struct Missing {
    range: Range<u64>,
    shape: Shape,
    chunks: Vec<ChunkRef>,
    nodes: Vec<(NodeId, NodePlace)>,
}

impl NodeVisitor for Missing {
    fn enter(&mut self, _: NodeId, place: NodePlace) -> bool {
        let bytes = self.shape.bytes(place);
        bytes.start < self.range.end && self.range.start < bytes.end
    }

    fn leaf(&mut self, _: NodeId, _: NodePlace, chunks: &[ChunkRef]) {
        let range = &self.range;
        let here = |chunk: &&ChunkRef| chunk.offset < range.end && range.start < chunk.end();
        self.chunks.extend(chunks.iter().filter(here));
    }

    fn fault(&mut self, fault: RecipeError) {
        if let RecipeError::Unreadable { node, place, .. } = fault {
            self.nodes.push((node, place));
        }
    }
}

impl Healer<'_> {
    fn hurt(&mut self, hurt: &Hurt, snapshots: &[Snapshot]) -> Result<(), RepairError> {
        let Some(snapshot) = snapshots.iter().find(|it| it.id == hurt.snapshot) else {
            return Ok(());
        };
        let mut recipes = snapshot.manifest.recipes();
        let recipe = recipes.find(|it| it.name == hurt.target && it.is_file == hurt.is_file);
        let window_len = self.contents.repository().chunker().window_len();
        let Some((recipe, shape)) =
            recipe.and_then(|it| Some((it, Shape::new(it.size, window_len).ok()?)))
        else {
            return Ok(());
        };
        let mut missing = Missing {
            range: hurt.range.clone(),
            shape,
            chunks: Vec::new(),
            nodes: Vec::new(),
        };
        Recipe::new(self.contents, shape, recipe.root).visit(&mut missing);
        let lost = Lost {
            snapshot,
            target: recipe.name,
            is_file: recipe.is_file,
        };
        let ids: Vec<ContentId> = missing.chunks.iter().map(|it| it.id.into()).collect();
        let places = self.contents.places(&ids)?;
        for (chunk, place) in missing.chunks.iter().zip(places) {
            if place.is_none() {
                self.chunk(lost, chunk)?;
            }
        }
        for (node, place) in missing.nodes {
            self.node(lost, shape, place, node)?;
        }
        Ok(())
    }

    fn chunk(&mut self, lost: Lost<'_>, chunk: &ChunkRef) -> Result<(), RepairError> {
        self.check_cancelled()?;
        let id: ContentId = chunk.id.into();
        if self.found_ids.contains(&id) {
            return Ok(());
        }
        let ours = self.contents.repository();
        let hash = |bytes: &[u8]| ours.keys().chunk_id(bytes).into();
        let range = chunk.offset..chunk.end();
        let right = |bytes: &[u8]| (hash(bytes) == id).then(|| bytes.to_vec());
        let ask = |donor: &Donor| {
            let by_id = donor.content(ours, id, &hash);
            by_id.or_else(|| donor.bytes(lost, range.clone(), right))
        };
        let Some(bytes) = self.options.donors.iter().find_map(ask) else {
            return Ok(());
        };
        self.found_ids.insert(id);
        if self.intake.claim(&[id])?.first() == Some(&true) {
            self.healed += 1;
            if let Some(frame) = self.framer.add(id, &bytes) {
                self.intake.store(frame)?;
            }
        }
        Ok(())
    }

    fn node(
        &mut self,
        lost: Lost<'_>,
        shape: Shape,
        place: NodePlace,
        node: NodeId,
    ) -> Result<(), RepairError> {
        let id: ContentId = node.into();
        if self.found_ids.contains(&id) {
            return Ok(());
        }
        let ours = self.contents.repository();
        let hash = |bytes: &[u8]| ours.keys().node_id(bytes).into();
        for donor in self.options.donors {
            self.check_cancelled()?;
            let mut found = donor.content(ours, id, &hash);
            if found.is_none() {
                found = self.rebuilder.node(donor, lost, shape, place, node)?;
            }
            if let Some(encoded) = found {
                self.found_ids.insert(id);
                let mut writer = self.intake.node_writer();
                let put = writer.put(node, encoded);
                put.map_err(|source| RecipeError::Unwritable {
                    node,
                    place,
                    source,
                })?;
                self.healed += 1;
                return Ok(writer.flush()?);
            }
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<(), RepairError> {
        match self.options.cancel.is_cancelled() {
            true => Err(RepairError::Cancelled),
            false => Ok(()),
        }
    }
}
