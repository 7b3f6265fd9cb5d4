//! Rebuilds a lost recipe node from the disk's bytes: equal bytes under equal chunker settings give
//! equal nodes, and no cut depends on what lies in another region.

use crate::chunker::{
    BlockSet, ChunkRef, Cutter, GearTable, Geometry, Piece, Region, RegionBuffer, walk_region,
};
use crate::crypto::Keys;
use crate::id::NodeId;
use crate::limits::REGION_LEN;
use crate::recipe::{Cause, NodePlace, NodeSink, RecipeBuilder, RecipeError, Shape};
use crate::repository::Repository;

use super::donor::{Donor, Lost};

/// What nodes are rebuilt with.
pub(super) struct Rebuilder<'r> {
    repository: &'r Repository,
    cutter: Cutter,
}

/// Keeps the one node that is wanted.
struct Sieve<'s> {
    keys: &'s Keys,
    wanted: NodeId,
    found: Option<Vec<u8>>,
}

impl NodeSink for Sieve<'_> {
    fn id_of(&self, encoded: &[u8]) -> NodeId {
        self.keys.node_id(encoded)
    }

    fn put(&mut self, id: NodeId, encoded: Vec<u8>) -> Result<(), Cause> {
        if id == self.wanted {
            self.found = Some(encoded);
        }
        Ok(())
    }
}

impl<'r> Rebuilder<'r> {
    pub(super) fn new(repository: &'r Repository) -> Self {
        let gear = repository.keys().gear();
        let gear = gear.map_or_else(GearTable::public, GearTable::keyed);
        Self {
            repository,
            cutter: Cutter::new(repository.chunker().cut_params(), gear),
        }
    }

    /// Returns the node's encoded bytes, if the disk of a donor gives them.
    pub(super) fn node(
        &self,
        donor: &Donor,
        lost: Lost<'_>,
        shape: Shape,
        place: NodePlace,
        wanted: NodeId,
    ) -> Result<Option<Vec<u8>>, RecipeError> {
        let bytes = shape.bytes(place);
        let mut chunks = Vec::new();
        let mut start = bytes.start - bytes.start % REGION_LEN;
        while start < bytes.end {
            let region = Geometry::DISK.region_at(start, shape.size());
            let cut = |bytes: &[u8]| Some(self.cut(region.start, bytes));
            // Of several disks of a donor only the likeliest is tried: what is wanted depends on
            // all regions at once.
            let Some(found) = donor.bytes(lost, region.clone(), cut) else {
                return Ok(None);
            };
            chunks.extend(found);
            start = region.end;
        }
        let mut sieve = Sieve {
            keys: self.repository.keys(),
            wanted,
            found: None,
        };
        let mut builder = RecipeBuilder::new(shape, &mut sieve, None);
        let windows = place.windows();
        let in_window = |chunk: &ChunkRef| chunk.offset / shape.window_len();
        for chunks in chunks.chunk_by(|a, b| in_window(a) == in_window(b)) {
            let window = chunks.first().map(in_window);
            if let Some(window) = window.filter(|window| windows.contains(window)) {
                builder.set_window(window, chunks)?;
            }
        }
        builder.finish()?;
        Ok(sieve.found)
    }

    /// Cuts a region as a backup does.
    fn cut(&self, start: u64, bytes: &[u8]) -> Vec<ChunkRef> {
        let range = start..start + bytes.len() as u64;
        let region = Region {
            range: range.clone(),
            parent: &[],
            dirty: &BlockSet::all(Geometry::DISK, &range),
            holes: &BlockSet::of_zeros(Geometry::DISK, bytes),
        };
        let mut buffer = RegionBuffer::new(start, bytes);
        let mut chunks = Vec::new();
        let keys = self.repository.keys();
        let walked: Result<(), std::convert::Infallible> = walk_region(
            &self.cutter,
            Geometry::DISK,
            &region,
            &mut buffer,
            |piece| {
                chunks.push(match piece {
                    Piece::Kept(chunk) => chunk,
                    Piece::Cut { offset, bytes } => ChunkRef {
                        offset,
                        len: u32::try_from(bytes.len()).expect("at most CHUNK_LEN_MAX"),
                        id: keys.chunk_id(bytes),
                    },
                });
                Ok(())
            },
        );
        match walked {
            Ok(()) => chunks,
            Err(never) => match never {},
        }
    }
}
