//! A number for everything that packs hold: the entries of all footers, one pack after the other.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::sets::{NOBODY, SetId, Sets};
use super::totals::StatsError;
use crate::format::pack::Footer;
use crate::id::PackId;
use crate::index::Place;
use crate::pack::{PackReader, read_footer};
use crate::pool;
use crate::repository::{Contents, RepositoryError};

/// Who refers to each entry. Four bytes for an entry, and four for a frame.
pub(super) struct Slots {
    packs: HashMap<PackId, PackSlots>,
    owners: Vec<SetId>,
    /// Packs that could not be read.
    pub(super) unreadable: u64,
}

struct PackSlots {
    /// Number of the pack's first entry.
    first: usize,
    /// The first entry of each frame, from the pack's first.
    frames: Vec<u32>,
}

impl Slots {
    /// Reads the footers of all packs.
    pub(super) fn read(contents: &Contents, threads: usize) -> Result<Self, StatsError> {
        let slots = Mutex::new(Self {
            packs: HashMap::new(),
            owners: Vec::new(),
            unreadable: 0,
        });
        each_footer(contents, threads, |pack| {
            let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
            match pack {
                Some(pack) => slots.add(pack),
                None => slots.unreadable += 1,
            }
        })?;
        Ok(slots.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&mut self, pack: &PackReader) {
        let footer = pack.footer();
        let first = self.owners.len();
        self.owners.resize(first + footer.entries.len(), NOBODY);
        let frames = footer.frames.iter().map(|frame| frame.chunks.start);
        let frames = frames.collect();
        self.packs.insert(pack.id(), PackSlots { first, frames });
    }

    /// Adds owners to what lies at a place.
    pub(super) fn own(&mut self, pack: PackId, place: &Place, owners: SetId, sets: &mut Sets) {
        let slots = self.packs.get(&pack);
        let number = slots.and_then(|slots| {
            let frame = slots.frames.get(usize::from(place.frame))?;
            Some(slots.first + *frame as usize + usize::from(place.slot))
        });
        if let Some(slot) = number.and_then(|number| self.owners.get_mut(number)) {
            *slot = sets.union(*slot, owners);
        }
    }

    /// Returns how many stored bytes each set of owners has, by the sets' numbers. All together
    /// are the bytes of all packs, as far as these can be read.
    pub(super) fn bytes(
        &self,
        contents: &Contents,
        threads: usize,
        sets: usize,
    ) -> Result<Vec<u64>, StatsError> {
        let bytes = Mutex::new(vec![0; sets]);
        each_footer(contents, threads, |pack| {
            let Some((pack, slots)) =
                pack.and_then(|pack| Some((pack, self.packs.get(&pack.id())?)))
            else {
                return;
            };
            let costs = costs(pack.footer(), pack.stored_len());
            let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let owners = self.owners.get(slots.first..).unwrap_or_default();
            let mut left = pack.stored_len();
            for (owner, cost) in owners.iter().zip(costs) {
                bytes[*owner as usize] += cost;
                left -= cost;
            }
            // An empty pack has nobody to pay for it.
            bytes[NOBODY as usize] += left;
        })?;
        Ok(bytes.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Hands the footer of every pack to `take`; `None` for one that is damaged. Packs that a
/// collection at work has taken away are left out.
fn each_footer(
    contents: &Contents,
    threads: usize,
    take: impl Fn(Option<&PackReader>) + Sync + Send,
) -> Result<(), StatsError> {
    let repository = contents.repository();
    let (storage, keys) = (repository.storage(), repository.keys());
    let take = &take;
    pool::for_each(threads, "space", contents.packs().iter().map(Ok), || {
        move |pack: &PackId| {
            match read_footer(storage, keys, *pack) {
                Ok(reader) => take(Some(&reader)),
                Err(error) if error.is_gone() => {}
                Err(error) if error.is_loss() => take(None),
                Err(error) => return Err(StatsError::from(RepositoryError::from(error))),
            }
            Ok(())
        }
    })
}

/// Returns what each entry of a pack takes of its stored bytes: of its frame by its share of the
/// plain bytes, and of header, footer and trailer as much as any other.
fn costs(footer: &Footer, stored_len: u64) -> impl Iterator<Item = u64> {
    let frames_len = footer
        .frames
        .iter()
        .map(|frame| u64::from(frame.stored_len));
    let around = stored_len.saturating_sub(frames_len.sum());
    let count = footer.entries.len() as u64;
    let of_frames = footer.frames.iter().flat_map(move |frame| {
        let (stored, plain) = (frame.stored_len.into(), frame.plain_len.into());
        let mut end = 0;
        footer.frame_entries(frame).iter().map(move |entry| {
            let start = end;
            end += u64::from(entry.len);
            share(stored, start, end, plain)
        })
    });
    let around = (0..count).map(move |number| share(around, number, number + 1, count));
    of_frames.zip(around).map(|(frame, around)| frame + around)
}

/// Returns the part of `total` that belongs to `start..end` of `whole`; the parts of all add up.
fn share(total: u64, start: u64, end: u64, whole: u64) -> u64 {
    let until = |place: u64| {
        let part = u128::from(total) * u128::from(place) / u128::from(whole.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    };
    until(end).saturating_sub(until(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let mut random = fastrand::Rng::with_seed(9);
        for _ in 0..1000 {
            let total = random.u64(0..100_000);
            let parts: Vec<u64> = (0..random.usize(1..20))
                .map(|_| random.u64(1..70_000))
                .collect();
            let whole = parts.iter().sum();
            let mut end = 0;
            let mut sum = 0;
            for part in parts {
                let own = share(total, end, end + part, whole);
                let exact = total as f64 * part as f64 / whole as f64;
                assert!((own as f64 - exact).abs() < 1.0 + 1e-6);
                sum += own;
                end += part;
            }
            assert_eq!(sum, total);
        }
        assert_eq!(share(7, 0, 0, 0), 0);
    }
}
