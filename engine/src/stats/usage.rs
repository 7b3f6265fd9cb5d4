//! Whom the stored bytes belong to: what each owner of snapshots uses, alone and with others.

use std::collections::HashMap;

use super::sets::NOBODY;
use super::slots::Slots;
use super::totals::StatsError;
use super::walk::Walk;
use crate::id::SnapshotId;
use crate::progress::Cancel;
use crate::repository::{Contents, RepositoryError, Snapshot};
use crate::storage::{Area, Name};

/// A snapshot, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Owned<'s> {
    /// The snapshot.
    pub snapshot: &'s Snapshot,
    /// The number of its owner; `None` where it is forgotten and only rests: it holds nothing back
    /// that others share with it.
    pub owner: Option<u32>,
}

/// How space is counted.
#[derive(Clone, Copy)]
pub struct UsageOptions<'a> {
    /// How many threads read footers.
    pub threads: usize,
    /// How someone asks to stop.
    pub cancel: &'a Cancel,
}

/// What an owner's snapshots take. Stored bytes throughout: compressed, sealed, and with the
/// share of what surrounds them in their packs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// All that they refer to.
    pub used_bytes: u64,
    /// What nobody else refers to.
    pub unique_bytes: u64,
    /// What a collection that leaves nothing unused frees if all of them are forgotten: what is
    /// unique, and their manifests and notes.
    pub freed_bytes: u64,
}

impl Space {
    /// Returns what others refer to as well.
    pub fn shared_bytes(&self) -> u64 {
        self.used_bytes.saturating_sub(self.unique_bytes)
    }
}

/// Whom the stored bytes of a repository belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// What each owner's snapshots take, by their numbers.
    pub owners: Vec<Space>,
    /// Bytes in packs that only snapshots refer to which are forgotten and rest.
    pub resting_bytes: u64,
    /// Bytes in packs that nobody refers to: also second copies of what is referred to.
    pub unreferenced_bytes: u64,
    /// Packs that could not be read, and so are not counted.
    pub unreadable_packs: u64,
    /// Recipe nodes that could not be read, and so what is below them is not counted.
    pub lost_nodes: u64,
    /// Chunks that no pack has.
    pub lost_chunks: u64,
}

impl Usage {
    /// Returns whether damage kept something from being counted.
    pub fn is_partial(&self) -> bool {
        self.unreadable_packs + self.lost_nodes + self.lost_chunks > 0
    }
}

/// Counts whom the stored bytes belong to. Owners have the numbers below `owners`.
///
/// Each distinct recipe node is read once, and the data of disks not at all. The memory is some
/// bytes for each chunk, and does not grow with the number of snapshots but for the distinct sets
/// of owners that share something.
pub fn usage(
    contents: &Contents,
    snapshots: &[Owned<'_>],
    owners: u32,
    options: &UsageOptions<'_>,
) -> Result<Usage, StatsError> {
    let slots = Slots::read(contents, options.threads)?;
    let mut walk = Walk::new(contents, slots, options.cancel);
    for owned in snapshots {
        // Those that rest are one more owner, who is passed over in the end.
        walk.add(owned.snapshot, owned.owner.unwrap_or(owners));
    }
    walk.run()?;
    let bytes = walk
        .slots
        .bytes(contents, options.threads, walk.sets.len())?;
    let mut usage = Usage {
        owners: vec![Space::default(); owners as usize],
        unreadable_packs: walk.slots.unreadable,
        lost_nodes: walk.lost_nodes,
        lost_chunks: walk.lost_chunks,
        ..Usage::default()
    };
    for (set, bytes) in (NOBODY..).zip(bytes) {
        let living = || walk.sets.owners(set).filter(|owner| *owner < owners);
        match (set, living().count()) {
            (NOBODY, _) => usage.unreferenced_bytes += bytes,
            (_, 0) => usage.resting_bytes += bytes,
            (_, count) => {
                for owner in living() {
                    let space = &mut usage.owners[owner as usize];
                    space.used_bytes += bytes;
                    space.unique_bytes += if count == 1 { bytes } else { 0 };
                }
            }
        }
    }
    add_documents(contents, snapshots, &mut usage.owners)?;
    Ok(usage)
}

/// Adds what goes together with a snapshot's data: its manifest, and its notes.
fn add_documents(
    contents: &Contents,
    snapshots: &[Owned<'_>],
    owners: &mut [Space],
) -> Result<(), StatsError> {
    for space in &mut *owners {
        space.freed_bytes = space.unique_bytes;
    }
    let owner_of = |owned: &Owned<'_>| Some((owned.snapshot.id, owned.owner?));
    let owner_of: HashMap<SnapshotId, u32> = snapshots.iter().filter_map(owner_of).collect();
    let storage = contents.repository().storage();
    for area in [Area::Snapshots, Area::Notes] {
        for listed in storage.list(area).map_err(RepositoryError::from)? {
            let (Name::Snapshot(id) | Name::Note(id, _)) = listed.name else {
                continue;
            };
            let owner = owner_of.get(&id).map(|owner| *owner as usize);
            if let Some(space) = owner.and_then(|owner| owners.get_mut(owner)) {
                space.freed_bytes += listed.len;
            }
        }
    }
    Ok(())
}
