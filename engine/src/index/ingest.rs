//! What a process adds to an index, and how it gets into the database on disk.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::db::{self, Access, Db};
use super::lock::Sharing;
use super::packs::{Packs, TakenIn};
use super::{Index, IndexError, PackPrefix, Place, merge, place};
use crate::id::{ContentId, PackId};

/// What became of this process's additions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Ingest {
    /// They stand in the index on disk.
    Done,
    /// They do not, because the index may not be written or others kept it locked. Whoever opens
    /// it next takes the packs in from their footers.
    NotIngested,
}

impl Index {
    /// Adds a pack that this process has written, so that [`Self::find`] answers with its places.
    /// The pack must be durable under its name.
    ///
    /// # Errors
    ///
    /// Fails if the private files in `temp_dir` cannot be written. The packs added so far may then
    /// be found in part; none of them will count as taken in.
    pub fn add_pack(&self, pack: PackId, places: &[(ContentId, Place)]) -> Result<(), IndexError> {
        let mut state = self.write();
        state.packs.insert(pack);
        // A pack whose prefix is not its own is left to the slow way.
        if !state.packs.is_unambiguous(pack) {
            return Ok(());
        }
        assert_prefix(pack, places);
        state.overlay.add(pack, places)
    }

    /// Moves this process's additions into the index on disk, in one step that is durable on
    /// return. At the end of a run; look-ups wait meanwhile.
    ///
    /// # Errors
    ///
    /// After an error the additions are still found by this process. The repository lacks
    /// nothing: whoever opens the index next takes the packs in.
    pub fn ingest(&self) -> Result<Ingest, IndexError> {
        if !self.options.writable {
            return Ok(Ingest::NotIngested);
        }
        let state = &mut *self.write();
        let packs = state.overlay.packs();
        let places = state.overlay.places()?;
        let ingested = self.ingest_from(&mut state.db, &state.packs, &packs, places)?;
        if ingested == Ingest::Done {
            state.overlay.clear();
        }
        Ok(ingested)
    }

    /// Moves sorted places, and that `new` have been taken in, into the database on disk, and opens
    /// that anew.
    pub(super) fn ingest_from(
        &self,
        db: &mut Option<Db>,
        present: &Packs,
        new: &[TakenIn],
        places: impl Iterator<Item = Result<(ContentId, Place), IndexError>>,
    ) -> Result<Ingest, IndexError> {
        if !self.options.writable {
            return Ok(Ingest::NotIngested);
        }
        if new.is_empty() {
            return Ok(Ingest::Done);
        }
        let Some(_lock) = self.lock(Sharing::Exclusive)? else {
            return Ok(Ingest::NotIngested);
        };
        if self.has_news(new) {
            return Ok(Ingest::NotIngested);
        }
        // Closed first, so that the filters of the whole index are in memory once, not twice.
        *db = None;
        let ingested = self.ingest_locked(present, new, places);
        let reopened = Db::open(
            &self.options.database(),
            Access::Read,
            self.options.cache_memory,
        );
        let failed = ingested.as_ref().err().or(reopened.as_ref().err());
        if failed.is_some_and(|failed| !failed.is_shortage()) {
            self.condemn();
        }
        *db = Some(reopened?);
        ingested.map(|()| Ingest::Done)
    }

    /// Returns whether a database that is to be thrown away has learned of packs since it was
    /// looked at. Whoever opened it since counts on what it knows, so it stays.
    fn has_news(&self, new: &[TakenIn]) -> bool {
        let Some(outdated) = self.outdated().take() else {
            return false;
        };
        let known = Db::open(
            &self.options.database(),
            Access::Read,
            self.options.cache_memory,
        )
        .and_then(|db| db.taken_in());
        let read: HashSet<PackId> = new.iter().map(|record| record.pack).collect();
        let is_news = |pack: &PackId| !outdated.contains(pack) && !read.contains(pack);
        // One that cannot be read any more tells nobody anything.
        let has_news = known.is_ok_and(|known| known.iter().any(|it| is_news(&it.pack)));
        if has_news {
            self.damaged.store(false, Ordering::Relaxed);
        }
        has_news
    }

    pub(super) fn outdated(&self) -> MutexGuard<'_, Option<HashSet<PackId>>> {
        self.outdated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ingest_locked(
        &self,
        present: &Packs,
        new: &[TakenIn],
        places: impl Iterator<Item = Result<(ContentId, Place), IndexError>>,
    ) -> Result<(), IndexError> {
        if self.is_damaged() {
            self.reset()?;
        }
        let (db, is_new) = self.open_to_write()?;
        let known = db.taken_in()?;
        // Another process may have taken in a pack that cannot be told from one of ours.
        let mut packs = Packs::new(&present.all(), &known);
        known.iter().for_each(|record| packs.insert(record.pack));
        let mut records: Vec<_> = new
            .iter()
            .filter(|record| packs.is_unambiguous(record.pack))
            .map(|record| db::record(record.pack, record.entries))
            .collect();
        if is_new {
            let meta = place::meta_value(self.options.repository);
            records.push((place::META_KEY.to_vec(), meta));
        }
        records.sort_unstable();
        let places = places
            .filter(|place| !matches!(place, Ok((_, place)) if !packs.is_present(place.pack)));
        let staging = self.options.dir.join("new");
        let is_present = |prefix| present.is_present(prefix);
        merge::merge_into(&db, &staging, places, records, is_present)?;
        merge::remove_folder(&staging)?;
        db.settle()
    }
}

pub(super) fn assert_prefix(pack: PackId, places: &[(ContentId, Place)]) {
    let prefix = PackPrefix::of(pack);
    assert!(
        places.iter().all(|(_, place)| place.pack == prefix),
        "the places of a pack carry its prefix"
    );
}
