//! What this process knows and the database on disk does not: packs it has written, and packs that
//! it took in and could not ingest. At most so much in memory, the rest in a private database.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::IndexError;
use super::db::{Access, Db};
use super::merge::{merge_into, remove_folder};
use super::packs::TakenIn;
use super::place::Place;
use crate::id::{ContentId, PackId};
use crate::limits::MIB;
use crate::spill::private_path;

/// Bytes that a map takes for one entry's place in its table: key, value, and a byte of control.
const SLOT_LEN: u64 = 32 + 16 + 1;

/// Memory for blocks of the private database. What is looked up there was added minutes ago, and
/// the system still has it in memory.
const PRIVATE_CACHE: u64 = 8 * MIB;

/// Places in the order of their ids.
type Places<'a> = Box<dyn Iterator<Item = Result<(ContentId, Place), IndexError>> + 'a>;

pub(super) struct Overlay {
    memory: HashMap<ContentId, Place>,
    /// Further places of ids that `memory` has.
    others: Vec<(ContentId, Place)>,
    memory_max: usize,
    packs: Vec<TakenIn>,
    temp_dir: PathBuf,
    private: Option<Private>,
}

impl Overlay {
    /// Makes an empty overlay that holds about `memory` bytes before it spills into a folder of
    /// its own inside `temp_dir`.
    pub(super) fn new(memory: u64, temp_dir: &Path) -> Self {
        // Spilling sorts a copy of what the map holds, so the map gets one half. A map's table has
        // a power of two of slots and fills seven eighths of them.
        let slots = (memory / 2 / SLOT_LEN).max(8);
        let slots = 1_u64 << slots.ilog2();
        Self {
            memory: HashMap::new(),
            others: Vec::new(),
            memory_max: usize::try_from(slots / 8 * 7).unwrap_or(usize::MAX),
            packs: Vec::new(),
            temp_dir: temp_dir.to_path_buf(),
            private: None,
        }
    }

    /// Adds all places of a pack.
    ///
    /// # Errors
    ///
    /// After an error the packs added so far are no longer listed: what was to be written may be
    /// lost in part, and a pack must not count as taken in on the strength of it.
    pub(super) fn add(
        &mut self,
        pack: PackId,
        places: &[(ContentId, Place)],
    ) -> Result<(), IndexError> {
        for (id, place) in places {
            if self.memory.len() + self.others.len() >= self.memory_max {
                self.spill_memory()?;
            }
            self.remember(*id, *place);
        }
        let entries = u32::try_from(places.len()).unwrap_or(u32::MAX);
        self.packs.push(TakenIn { pack, entries });
        Ok(())
    }

    /// Adds all places of many packs, sorted by id.
    ///
    /// # Errors
    ///
    /// As [`Self::add`].
    pub(super) fn add_sorted(
        &mut self,
        packs: &[TakenIn],
        places: impl Iterator<Item = Result<(ContentId, Place), IndexError>>,
    ) -> Result<(), IndexError> {
        let count: usize = packs.iter().map(|record| record.entries as usize).sum();
        if self.memory.len() + self.others.len() + count > self.memory_max {
            self.spill(places)?;
        } else {
            for place in places {
                let (id, place) = place?;
                self.remember(id, place);
            }
        }
        self.packs.extend(packs);
        Ok(())
    }

    /// Returns a place that is held in memory.
    pub(super) fn in_memory(&self, id: ContentId) -> Option<Place> {
        self.memory.get(&id).copied()
    }

    /// Returns the database that holds what memory does not.
    pub(super) fn private(&self) -> Option<&Db> {
        self.private.as_ref().map(|private| &private.db)
    }

    /// Lists the packs added, in the order of their ids.
    pub(super) fn packs(&self) -> Vec<TakenIn> {
        let mut packs = self.packs.clone();
        packs.sort_unstable_by_key(|record| record.pack);
        packs.dedup_by_key(|record| record.pack);
        packs
    }

    /// Returns all places in the order of their ids.
    pub(super) fn places(&mut self) -> Result<Places<'_>, IndexError> {
        if self.private.is_some() {
            self.spill_memory()?;
        }
        Ok(match &self.private {
            Some(private) => Box::new(private.db.places()),
            None => Box::new(self.sorted().into_iter().map(Ok)),
        })
    }

    /// Forgets everything, once it stands in the database on disk.
    pub(super) fn clear(&mut self) {
        self.memory = HashMap::new();
        self.others = Vec::new();
        self.packs = Vec::new();
        self.private = None;
    }

    fn remember(&mut self, id: ContentId, place: Place) {
        match self.memory.entry(id) {
            Entry::Vacant(vacant) => {
                vacant.insert(place);
            }
            Entry::Occupied(known) if known.get().pack == place.pack => {}
            Entry::Occupied(_) => self.others.push((id, place)),
        }
    }

    fn sorted(&self) -> Vec<(ContentId, Place)> {
        let mut sorted = Vec::with_capacity(self.memory.len() + self.others.len());
        sorted.extend(self.memory.iter().map(|(id, place)| (*id, *place)));
        sorted.extend(&self.others);
        sorted.sort_unstable();
        sorted
    }

    fn spill_memory(&mut self) -> Result<(), IndexError> {
        let sorted = self.sorted();
        self.memory.clear();
        self.others.clear();
        self.spill(sorted.into_iter().map(Ok))
    }

    fn spill(
        &mut self,
        sorted: impl Iterator<Item = Result<(ContentId, Place), IndexError>>,
    ) -> Result<(), IndexError> {
        let private = match &mut self.private {
            Some(private) => Ok(private),
            none => Private::make(&self.temp_dir).map(|made| none.insert(made)),
        };
        let spilled = private.and_then(|private| {
            let staging = private.folder.join("run");
            merge_into(&private.db, &staging, sorted, Vec::new(), |_| true)
        });
        if spilled.is_err() {
            self.packs.clear();
        }
        spilled
    }
}

/// A database that only this process knows.
struct Private {
    db: Db,
    folder: PathBuf,
}

impl Private {
    fn make(temp_dir: &Path) -> Result<Self, IndexError> {
        loop {
            let folder = private_path(temp_dir);
            match fs::create_dir(&folder) {
                Ok(()) => {
                    let db = Db::open(&folder.join("db"), Access::Write, PRIVATE_CACHE)?;
                    return Ok(Self { db, folder });
                }
                Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(IndexError::Io {
                        op: "make",
                        path: folder,
                        source,
                    });
                }
            }
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Tables that are still open live on without a name until the database closes. What
        // cannot be removed here goes with the session's temporary folder.
        drop(remove_folder(&self.folder));
    }
}
