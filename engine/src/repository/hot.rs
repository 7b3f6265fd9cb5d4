//! The packs that look-ups hit lately, each as a table: duplicates and reads come in runs, and a
//! table answers forty times as fast as the database.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use crate::id::{ContentId, PackId};
use crate::index::Place;
use crate::pack::{PackReader, places_in};

/// Tables asked before the index.
const TABLES_MAX: usize = 8;
/// Entries of all tables together: about 10 MiB.
const ENTRIES_MAX: usize = 128 * 1024;
/// Hits in one batch that show a run, and are worth reading a footer for.
const RUN_MIN: usize = 16;

type Table = HashMap<ContentId, Place>;

/// Tables of packs, the one that was hit last in front.
#[derive(Default)]
pub(super) struct HotPacks {
    tables: RwLock<VecDeque<(PackId, Arc<Table>)>>,
}

impl HotPacks {
    /// Returns where contents are, as far as the tables know.
    pub(super) fn find(&self, ids: &[ContentId]) -> Vec<Option<Place>> {
        let tables: Vec<Arc<Table>> = {
            let held = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            held.iter().map(|(_, table)| Arc::clone(table)).collect()
        };
        let mut last = 0;
        let find = |id| {
            // The table that answered for the neighbour is the likeliest.
            let order = (last..tables.len()).chain(0..last);
            let (at, place) = order
                .filter_map(|at| Some((at, *tables.get(at)?.get(id)?)))
                .next()?;
            last = at;
            Some(place)
        };
        ids.iter().map(find).collect()
    }

    /// Returns the packs in which so many of `hits` lie that their tables should be added.
    pub(super) fn wanted(&self, hits: impl Iterator<Item = PackId>) -> Vec<PackId> {
        let mut counts: HashMap<PackId, usize> = HashMap::new();
        for pack in hits {
            *counts.entry(pack).or_default() += 1;
        }
        let held = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        counts
            .retain(|pack, count| *count >= RUN_MIN && held.iter().all(|(known, _)| known != pack));
        counts.into_keys().collect()
    }

    /// Adds a pack's table; the ones added longest ago go.
    pub(super) fn add(&self, reader: &PackReader) {
        let pack = reader.id();
        if reader.footer().entries.len() > ENTRIES_MAX {
            return;
        }
        let table: Table = places_in(pack, reader.footer()).collect();
        let mut held = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if held.iter().any(|(known, _)| *known == pack) {
            return;
        }
        held.push_front((pack, Arc::new(table)));
        let entries = |held: &VecDeque<(PackId, Arc<Table>)>| -> usize {
            held.iter().map(|(_, table)| table.len()).sum()
        };
        while held.len() > TABLES_MAX || entries(&held) > ENTRIES_MAX {
            held.pop_back();
        }
    }
}
