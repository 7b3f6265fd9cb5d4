//! Opening: what is on disk is used if it is sound, built anew if not, and completed either way.

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};

use super::db::{Access, Db};
use super::ingest::assert_prefix;
use super::lock::Sharing;
use super::overlay::Overlay;
use super::packs::{Packs, TakenIn};
use super::place::Place;
use super::{Index, IndexError, IndexOptions, Ingest, PackFooters, State, merge, place, take_in};
use crate::id::{ContentId, PackId};
use crate::spill::{Record, Sorter, SpillError};
use crate::storage::make_private_folder;

/// Share of entries whose packs have vanished, in percent, above which the index is built anew.
const STALE_PERCENT_MAX: u64 = 30;

impl Record for (ContentId, Place) {
    const LEN: usize = ContentId::LEN + Place::LEN;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
        out.extend_from_slice(&self.1.to_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let (id, place) = bytes.split_first_chunk().expect("a record holds an id");
        let place = Place::from_bytes(place).expect("a record holds a place");
        (ContentId::from_bytes(*id), place)
    }
}

/// Returns what was added to a sorter, in order.
fn sorted(
    sorter: &mut Sorter<(ContentId, Place)>,
) -> Result<impl Iterator<Item = Result<(ContentId, Place), IndexError>>, SpillError> {
    let places = sorter.sorted()?;
    Ok(places.map(|place| place.map_err(IndexError::from)))
}

/// What opening an index had to do.
#[derive(Debug)]
pub struct OpenReport<E> {
    /// Packs taken in from their footers.
    pub taken_in: usize,
    /// Packs that the index on disk knows and that are not present: their entries count as absent.
    pub dropped: Vec<PackId>,
    /// Whether the index on disk was thrown away.
    pub rebuilt: bool,
    /// Packs that could not be taken in, and why.
    pub unreadable: Vec<(PackId, E)>,
    /// Why what was taken in could not be kept for the next to open the index.
    pub not_kept: Option<IndexError>,
}

impl Index {
    /// Opens the index of a repository whose packs are `present`: those listed now, without those
    /// that gc has condemned. Packs that it does not know are taken in.
    ///
    /// An index that is missing, damaged, another repository's or of another generation is built
    /// anew. While another process keeps the index locked, this one keeps a private copy of what
    /// it lacks.
    ///
    /// # Errors
    ///
    /// Fails only if private files are needed and `temp_dir` cannot hold them.
    pub fn open<F: PackFooters>(
        options: IndexOptions,
        present: &[PackId],
        footers: &F,
    ) -> Result<(Self, OpenReport<F::Error>), IndexError> {
        let overlay = Overlay::new(options.overlay_memory, &options.temp_dir);
        let index = Self::closed(options, overlay);
        let (sound, rebuilt) = index.load_or_reset(present);
        let mut report = OpenReport {
            taken_in: 0,
            dropped: Vec::new(),
            rebuilt,
            unreadable: Vec::new(),
            not_kept: None,
        };
        let (db, known) = sound.map_or((None, Vec::new()), |(db, known)| (Some(db), known));
        let packs = Packs::new(present, &known);
        report.dropped = packs.vanished();
        {
            let state = &mut *index.write();
            state.packs = packs;
            state.db = db;
            index.complete(state, known, footers, &mut report)?;
        }
        Ok((index, report))
    }

    /// Throws the index on disk away, so that whoever opens it next builds it anew. Returns
    /// whether that was done: not while another process is adding to it.
    pub fn discard(options: IndexOptions) -> Result<bool, IndexError> {
        let overlay = Overlay::new(options.overlay_memory, &options.temp_dir);
        let index = Self::closed(options, overlay);
        if !index.options.dir.exists() {
            return Ok(true);
        }
        match index.lock(Sharing::Exclusive)? {
            Some(_lock) => index.reset().map(|()| true),
            None => Ok(false),
        }
    }

    fn closed(options: IndexOptions, overlay: Overlay) -> Self {
        Self {
            options,
            state: RwLock::new(State {
                packs: Packs::default(),
                overlay,
                db: None,
            }),
            damaged: AtomicBool::new(false),
            outdated: Mutex::default(),
        }
    }

    /// Takes in every pack present but those `known`, into the database or else into the overlay.
    fn complete<F: PackFooters>(
        &self,
        state: &mut State,
        known: Vec<TakenIn>,
        footers: &F,
        report: &mut OpenReport<F::Error>,
    ) -> Result<(), IndexError> {
        let mut is_known_trusted = !known.is_empty();
        let mut skip: HashSet<_> = known.into_iter().map(|record| record.pack).collect();
        let mut sorter = Sorter::new(self.options.overlay_memory / 2, &self.options.temp_dir);
        let mut new = Vec::new();
        loop {
            let mut unknown = state.packs.all();
            unknown.retain(|pack| !skip.contains(pack) && state.packs.is_unambiguous(*pack));
            unknown.sort_unstable();
            take_in::read_footers(&unknown, footers, |pack, places| {
                match places {
                    Err(failed) => report.unreadable.push((pack, failed)),
                    Ok(places) => {
                        assert_prefix(pack, &places);
                        sorter.add(&places)?;
                        let entries = u32::try_from(places.len()).unwrap_or(u32::MAX);
                        new.push(TakenIn { pack, entries });
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            report.taken_in = new.len();
            let places = sorted(&mut sorter)?;
            match self.ingest_from(&mut state.db, &state.packs, &new, places) {
                Ok(Ingest::Done) => {
                    report.not_kept = None;
                    return Ok(());
                }
                Ok(Ingest::NotIngested) => break,
                Err(failed) => report.not_kept = Some(failed),
            }
            let is_damaged = self.is_damaged();
            if !is_known_trusted || !(is_damaged || state.db.is_none()) {
                break;
            }
            // It showed only now that the database is of no use. What has been taken in stays, and
            // is joined by what the database was thought to know.
            state.db = None;
            report.rebuilt |= is_damaged;
            is_known_trusted = false;
            let failed = report.unreadable.iter().map(|(pack, _)| *pack);
            skip = new.iter().map(|record| record.pack).chain(failed).collect();
        }
        state.overlay.add_sorted(&new, sorted(&mut sorter)?)
    }

    /// Returns the database on disk if it can be used, and whether one was thrown away. Without a
    /// database everything goes to the overlay, which serves as well.
    fn load_or_reset(&self, present: &[PackId]) -> (Option<(Db, Vec<TakenIn>)>, bool) {
        let first = self.load(present);
        if let Load::Sound(db, known) = first {
            return (Some((db, known)), false);
        }
        let sharing = match self.options.writable {
            true => Sharing::Exclusive,
            false => Sharing::Shared,
        };
        if self.options.writable && make_private_folder(&self.options.dir).is_err() {
            return (None, false);
        }
        let Ok(Some(_lock)) = self.lock(sharing) else {
            return (first.usable(), false);
        };
        // The first attempt may have failed because someone was changing the folder. Now nobody
        // is, so this answer holds.
        match (self.load(present), self.options.writable) {
            (Load::Sound(db, known), _) => (Some((db, known)), false),
            (load @ (Load::Missing | Load::Unavailable), _) | (load, false) => {
                (load.usable(), false)
            }
            (Load::Stale(db, known), true) => {
                drop(db);
                // Thrown away only when the new one is ready to be written: others use it.
                let known = known.into_iter().map(|record| record.pack).collect();
                *self.outdated() = Some(known);
                self.damaged.store(true, Ordering::Relaxed);
                (None, true)
            }
            (load @ Load::Unusable, true) => {
                drop(load);
                (None, self.reset().is_ok())
            }
        }
    }

    fn load(&self, present: &[PackId]) -> Load {
        let folder = self.options.database();
        if !folder.join("CURRENT").exists() {
            let is_rest = folder.exists();
            return if is_rest {
                Load::Unusable
            } else {
                Load::Missing
            };
        }
        if self.options.writable && self.options.condemned().exists() {
            return Load::Unusable;
        }
        let opened = Db::open(&folder, Access::Read, self.options.cache_memory)
            .and_then(|db| Ok((db.meta()?, db.taken_in()?, db)));
        match opened {
            Ok((meta, known, db)) if self.is_ours(meta.as_deref()) => {
                // Entries that stand in the way of others cost answers; many of no use, only room.
                let is_shadowed = Packs::new(present, &known).is_shadowed();
                match is_shadowed || self.options.compacts && is_mostly_stale(&known, present) {
                    true => Load::Stale(db, known),
                    false => Load::Sound(db, known),
                }
            }
            Ok(_) => Load::Unusable,
            Err(failed) if failed.is_shortage() => Load::Unavailable,
            Err(_) => Load::Unusable,
        }
    }

    /// Opens the database to add to it, and returns whether it is new. One that cannot be used is
    /// replaced. Only under the lock.
    pub(super) fn open_to_write(&self) -> Result<(Db, bool), IndexError> {
        let folder = self.options.database();
        let cache = self.options.cache_memory;
        let opened = Db::open(&folder, Access::Write, cache).and_then(|db| Ok((db.meta()?, db)));
        match opened {
            Ok((meta, db)) if self.is_ours(meta.as_deref()) => return Ok((db, false)),
            Err(failed) if failed.is_shortage() => return Err(failed),
            // Closes it, before the folder goes.
            opened => drop(opened),
        }
        self.reset()?;
        Ok((Db::open(&folder, Access::Write, cache)?, true))
    }

    /// Throws the database away. Others who have it open keep what they have. Only under the lock.
    pub(super) fn reset(&self) -> Result<(), IndexError> {
        merge::remove_folder(&self.options.database())?;
        // After the database: should the process die in between, the mark still stands.
        let mark = self.options.condemned();
        if mark.exists() {
            fs::remove_file(&mark).map_err(|source| IndexError::Io {
                op: "remove",
                path: mark,
                source,
            })?;
        }
        self.damaged.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn is_ours(&self, meta: Option<&[u8]>) -> bool {
        meta == Some(&place::meta_value(self.options.repository))
    }
}

/// What was found on disk.
enum Load {
    Sound(Db, Vec<TakenIn>),
    /// Right, and full of what is no longer true.
    Stale(Db, Vec<TakenIn>),
    Missing,
    Unusable,
    /// The system lacks something; nothing is known about the database.
    Unavailable,
}

impl Load {
    fn usable(self) -> Option<(Db, Vec<TakenIn>)> {
        match self {
            Self::Sound(db, known) | Self::Stale(db, known) => Some((db, known)),
            Self::Missing | Self::Unusable | Self::Unavailable => None,
        }
    }
}

fn is_mostly_stale(known: &[TakenIn], present: &[PackId]) -> bool {
    let present: HashSet<_> = present.iter().collect();
    let (mut all, mut gone) = (0_u64, 0_u64);
    for record in known {
        all += u64::from(record.entries);
        if !present.contains(&record.pack) {
            gone += u64::from(record.entries);
        }
    }
    gone * 100 > all * STALE_PERCENT_MAX
}
