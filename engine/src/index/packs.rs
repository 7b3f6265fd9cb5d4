//! Which packs are present, by the prefix that entries carry.

use std::collections::{HashMap, HashSet};

use super::place::PackPrefix;
use crate::id::PackId;

/// A pack whose places all stand in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TakenIn {
    pub(super) pack: PackId,
    /// How many places.
    pub(super) entries: u32,
}

/// The packs present. An entry counts only if its prefix belongs to exactly one pack, present.
#[derive(Debug, Default)]
pub(super) struct Packs {
    present: HashSet<PackId>,
    /// `None` where two packs share the prefix: their entries cannot be told apart.
    by_prefix: HashMap<PackPrefix, Option<PackId>>,
    /// Packs that the database knows and that are no longer present. Their entries are still
    /// there, so a new pack must not be mistaken for them.
    vanished: HashMap<PackPrefix, PackId>,
}

impl Packs {
    pub(super) fn new(present: &[PackId], taken_in: &[TakenIn]) -> Self {
        let mut packs = Self {
            present: present.iter().copied().collect(),
            ..Self::default()
        };
        packs.vanished = taken_in
            .iter()
            .filter(|record| !packs.present.contains(&record.pack))
            .map(|record| (PackPrefix::of(record.pack), record.pack))
            .collect();
        for pack in present {
            packs.insert(*pack);
        }
        packs
    }

    pub(super) fn insert(&mut self, pack: PackId) {
        let prefix = PackPrefix::of(pack);
        self.present.insert(pack);
        let shadowed = self.vanished.get(&prefix).is_some_and(|gone| *gone != pack);
        let slot = self.by_prefix.entry(prefix).or_insert(Some(pack));
        if shadowed || *slot != Some(pack) {
            *slot = None;
        }
    }

    /// Returns the pack of this prefix, if it is present and the only one.
    pub(super) fn id(&self, prefix: PackPrefix) -> Option<PackId> {
        self.by_prefix.get(&prefix).copied().flatten()
    }

    pub(super) fn is_present(&self, prefix: PackPrefix) -> bool {
        self.id(prefix).is_some()
    }

    /// Returns whether entries of this pack can be told from those of all others.
    pub(super) fn is_unambiguous(&self, pack: PackId) -> bool {
        self.id(PackPrefix::of(pack)) == Some(pack)
    }

    /// Returns whether entries of a vanished pack stand in the way of a present one.
    pub(super) fn is_shadowed(&self) -> bool {
        self.vanished
            .keys()
            .any(|prefix| self.by_prefix.contains_key(prefix))
    }

    /// Returns every pack present, also those whose prefix is not their own alone.
    pub(super) fn all(&self) -> Vec<PackId> {
        self.present.iter().copied().collect()
    }

    /// Returns the packs that the database knows and that are no longer present.
    pub(super) fn vanished(&self) -> Vec<PackId> {
        self.vanished.values().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(prefix: u8, rest: u8) -> PackId {
        let mut bytes = [rest; 32];
        bytes[..8].fill(prefix);
        PackId::from_bytes(bytes)
    }

    fn taken_in(pack: PackId) -> TakenIn {
        TakenIn { pack, entries: 1 }
    }

    #[test]
    fn a_shared_prefix_belongs_to_nobody() {
        let packs = Packs::new(&[pack(1, 1), pack(1, 2), pack(2, 1)], &[]);
        assert_eq!(packs.id(PackPrefix::of(pack(1, 1))), None);
        assert_eq!(packs.id(PackPrefix::of(pack(2, 1))), Some(pack(2, 1)));
        assert_eq!(packs.all().len(), 3);
    }

    #[test]
    fn a_third_pack_does_not_bring_a_shared_prefix_back() {
        let packs = Packs::new(&[pack(1, 1), pack(1, 2), pack(1, 1), pack(1, 3)], &[]);
        assert_eq!(packs.id(PackPrefix::of(pack(1, 1))), None);
        assert_eq!(packs.all().len(), 3);
    }

    #[test]
    fn entries_of_a_vanished_pack_are_not_given_to_a_new_one() {
        let packs = Packs::new(&[pack(1, 2)], &[taken_in(pack(1, 1))]);
        assert!(packs.is_shadowed());
        assert_eq!(packs.id(PackPrefix::of(pack(1, 2))), None);

        let mut packs = Packs::new(&[], &[taken_in(pack(1, 1))]);
        assert!(!packs.is_shadowed());
        packs.insert(pack(1, 2));
        assert!(!packs.is_unambiguous(pack(1, 2)));
    }

    #[test]
    fn a_pack_that_comes_back_is_itself() {
        let mut packs = Packs::new(&[], &[taken_in(pack(1, 1))]);
        packs.insert(pack(1, 1));
        assert!(packs.is_unambiguous(pack(1, 1)));
    }
}
