//! The census: what all packs hold, by their footers, and which of it lives.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use crate::format::pack::PackKind;
use crate::id::{ContentId, PackId};
use crate::pack::{PackError, PackReader, read_footer};
use crate::pool;
use crate::repository::{Contents, Repository};
use crate::spill::{Record, Sorter};
use crate::storage::{Area, Name};

use super::mark::Sorters;
use super::{GcError, GcOptions};

/// Bytes that an entry of a footer takes.
const ENTRY_LEN: u64 = 36;

/// Where an id stands: the number of the pack in the census, and of the entry in its footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    pub(super) pack: u32,
    pub(super) entry: u32,
}

impl Record for (ContentId, Spot) {
    const LEN: usize = ContentId::LEN + 8;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
        out.extend_from_slice(&self.1.pack.to_le_bytes());
        out.extend_from_slice(&self.1.entry.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let (id, rest) = bytes.split_first_chunk().expect("a record holds an id");
        let (pack, rest) = rest.split_first_chunk().expect("a record holds a pack");
        let entry = rest.try_into().expect("a record holds an entry");
        let spot = Spot {
            pack: u32::from_le_bytes(*pack),
            entry: u32::from_le_bytes(entry),
        };
        (ContentId::from_bytes(*id), spot)
    }
}

/// One bit for each entry of a pack.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    ones: u32,
}

impl Bits {
    fn new(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(64)],
            ones: 0,
        }
    }

    /// Sets a bit.
    pub(super) fn set(&mut self, at: u32) {
        let (word, bit) = (at as usize / 64, 1 << (at % 64));
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.ones += 1;
        }
    }

    /// Returns a bit.
    pub(super) fn get(&self, at: u32) -> bool {
        self.words[at as usize / 64] & 1 << (at % 64) != 0
    }

    /// Returns how many are set.
    pub(super) fn ones(&self) -> u32 {
        self.ones
    }
}

/// A pack whose footer was read.
pub(super) struct Pack {
    pub(super) id: PackId,
    pub(super) kind: PackKind,
    pub(super) stored_len: u64,
    pub(super) entries: u32,
    /// The entries that live here: of an id that several packs hold, one entry does.
    pub(super) live: Bits,
}

/// All packs, and where every id stands.
pub(super) struct Census {
    /// As they were listed; `None` for those whose footers cannot be read.
    pub(super) packs: Vec<Option<Pack>>,
    pub(super) ids: Vec<PackId>,
    pub(super) spots: Sorter<(ContentId, Spot)>,
    /// Whether several packs hold one that lives.
    pub(super) has_doubles: bool,
}

impl Census {
    /// Lists the packs and reads all their footers.
    ///
    /// # Errors
    ///
    /// A pack that is out of reach. One whose footer is damaged is noted, and stays.
    pub(super) fn take(
        repository: &Repository,
        options: &GcOptions<'_>,
        sorters: &Sorters,
    ) -> Result<Self, GcError> {
        let mut census = Self {
            packs: Vec::new(),
            ids: Vec::new(),
            spots: sorters.make(2),
            has_doubles: false,
        };
        census.extend(repository, options)?;
        Ok(census)
    }

    /// Lists the packs again, and adds those that have come since. They are settled first: what is
    /// dropped for their sake must survive a power cut in them, and whoever published them may have
    /// died before their folders were durable.
    pub(super) fn extend(
        &mut self,
        repository: &Repository,
        options: &GcOptions<'_>,
    ) -> Result<(), GcError> {
        let known: HashSet<PackId> = self.ids.iter().copied().collect();
        let listed = repository.storage().list(Area::Packs)?.into_iter();
        let new: Vec<PackId> = listed
            .filter_map(|listed| match listed.name {
                Name::Pack(id) => Some(id).filter(|id| !known.contains(id)),
                _ => None,
            })
            .collect();
        settle(repository, &new)?;
        let first = u32::try_from(self.ids.len()).expect("packs are counted in 32 bits");
        let spots = Mutex::new(&mut self.spots);
        let packs = Mutex::new(BTreeMap::new());
        let numbered = (first..).zip(&new).map(Ok::<_, GcError>);
        pool::for_each(options.threads, "census", numbered, || {
            |(number, id): (u32, &PackId)| {
                if options.cancel.is_cancelled() {
                    return Err(GcError::Cancelled);
                }
                let reader = match read_footer(repository.storage(), repository.keys(), *id) {
                    Ok(reader) => reader,
                    Err(error) if error.is_loss() => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
                let mut spots = spots.lock().unwrap_or_else(PoisonError::into_inner);
                add_spots(&mut spots, number, &reader)?;
                drop(spots);
                let mut packs = packs.lock().unwrap_or_else(PoisonError::into_inner);
                packs.insert(number, Pack::of(&reader));
                Ok(())
            }
        })?;
        let mut read = packs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let numbers = (first..).take(new.len());
        self.packs
            .extend(numbers.map(|number| read.remove(&number)));
        self.ids.extend(new);
        Ok(())
    }

    /// Returns the packs whose footers cannot be read.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = PackId> {
        let unread = self.packs.iter().zip(&self.ids);
        unread.filter_map(|(pack, id)| pack.is_none().then_some(*id))
    }

    /// Returns a pack by its number, which an entry of its footer gave.
    pub(super) fn pack(&self, number: u32) -> &Pack {
        let pack = self.packs[number as usize].as_ref();
        pack.expect("entries come from footers that were read")
    }

    /// Hands every distinct id of `live` to `each`, with all its places.
    pub(super) fn join(
        &mut self,
        live: &mut Sorter<ContentId>,
        mut each: impl FnMut(&mut [Option<Pack>], &[Spot]),
    ) -> Result<(), GcError> {
        let mut spots = self.spots.sorted()?;
        let mut next = spots.next().transpose()?;
        let mut last = None;
        let mut here = Vec::new();
        for id in live.sorted()? {
            let id = id?;
            if last.replace(id) == Some(id) {
                continue;
            }
            here.clear();
            while let Some((at, spot)) = next.filter(|(at, _)| *at <= id) {
                if at == id {
                    here.push(spot);
                }
                next = spots.next().transpose()?;
            }
            each(&mut self.packs, &here);
        }
        Ok(())
    }

    /// Marks one entry of every id in `live`, and returns how many ids no pack has.
    pub(super) fn mark(&mut self, live: &mut Sorter<ContentId>) -> Result<u64, GcError> {
        let (mut missing, mut has_doubles) = (0, false);
        self.join(live, |packs, spots| match spots.first() {
            None => missing += 1,
            Some(spot) => {
                has_doubles |= spots.len() > 1;
                if let Some(pack) = &mut packs[spot.pack as usize] {
                    pack.live.set(spot.entry);
                }
            }
        })?;
        self.has_doubles = has_doubles;
        Ok(missing)
    }
}

/// Makes the names of packs durable: by their folders, each of which the first byte of a name
/// tells.
fn settle(repository: &Repository, packs: &[PackId]) -> Result<(), GcError> {
    let folders: BTreeMap<u8, PackId> = packs.iter().map(|id| (id.as_bytes()[0], *id)).collect();
    for pack in folders.into_values() {
        repository.storage().settle(&Name::Pack(pack))?;
    }
    Ok(())
}

/// Adds where everything in a pack stands.
fn add_spots(
    spots: &mut Sorter<(ContentId, Spot)>,
    pack: u32,
    reader: &PackReader,
) -> Result<(), GcError> {
    for (content, entry) in reader.footer().entries.iter().zip(0_u32..) {
        spots.push((content.id, Spot { pack, entry }))?;
    }
    Ok(())
}

impl Pack {
    fn of(reader: &PackReader) -> Self {
        let entries = reader.footer().entries.len();
        Self {
            id: reader.id(),
            kind: reader.header().kind,
            stored_len: reader.stored_len(),
            entries: u32::try_from(entries).expect("bounded by PACK_CHUNKS_MAX"),
            live: Bits::new(entries),
        }
    }

    /// Returns whether nothing in it lives.
    pub(super) fn is_dead(&self) -> bool {
        self.live.ones() == 0
    }

    /// Returns the stored bytes that nothing needs, estimated for frames that live in part.
    pub(super) fn dead_bytes(&self, contents: &Contents) -> Result<u64, PackError> {
        if self.is_dead() {
            return Ok(self.stored_len);
        }
        let dead = self.entries - self.live.ones();
        if dead == 0 {
            return Ok(0);
        }
        let reader = contents.footer(self.id)?;
        let frames = reader.footer().frames.iter();
        let in_frames: u64 = frames
            .map(|frame| self.dead_in(&reader, frame.chunks.clone(), frame))
            .sum();
        Ok((in_frames + u64::from(dead) * ENTRY_LEN).min(self.stored_len))
    }

    fn dead_in(
        &self,
        reader: &PackReader,
        entries: std::ops::Range<u32>,
        frame: &crate::format::pack::FrameEntry,
    ) -> u64 {
        let dead: u64 = entries
            .zip(reader.footer().frame_entries(frame))
            .filter(|(at, _)| !self.live.get(*at))
            .map(|(_, entry)| u64::from(entry.len))
            .sum();
        (u64::from(frame.stored_len) * dead).div_ceil(u64::from(frame.plain_len).max(1))
    }
}
