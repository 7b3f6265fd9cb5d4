//! Sets of owners, each stored once and known by a number.
//!
//! Who owns snapshots of one VM one after the other shares a chunk with those before and after, so
//! that a set is a run or a few; and there are far fewer sets than chunks.

use std::collections::HashMap;
use std::sync::Arc;

/// A set, as its number among all.
pub(super) type SetId = u32;

/// The set without anyone.
pub(super) const NOBODY: SetId = 0;

/// Owners from the first on, up to the second and without it.
type Run = (u32, u32);

/// All sets that have come up.
pub(super) struct Sets {
    sets: Vec<Arc<[Run]>>,
    numbers: HashMap<Arc<[Run]>, SetId>,
    unions: HashMap<(SetId, SetId), SetId>,
}

impl Sets {
    pub(super) fn new() -> Self {
        let mut sets = Self {
            sets: Vec::new(),
            numbers: HashMap::new(),
            unions: HashMap::new(),
        };
        sets.number(&[]);
        sets
    }

    /// Returns the set of one owner.
    pub(super) fn of(&mut self, owner: u32) -> SetId {
        self.number(&[(owner, owner.saturating_add(1))])
    }

    /// Returns the set of the owners of both.
    pub(super) fn union(&mut self, a: SetId, b: SetId) -> SetId {
        if a == b || b == NOBODY {
            return a;
        }
        if a == NOBODY {
            return b;
        }
        let key = (a.min(b), a.max(b));
        if let Some(known) = self.unions.get(&key) {
            return *known;
        }
        let united = unite(self.runs(a), self.runs(b));
        let united = self.number(&united);
        self.unions.insert(key, united);
        united
    }

    /// Returns how many sets there are; their numbers are those below.
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }

    /// Returns the owners of a set, in order.
    pub(super) fn owners(&self, set: SetId) -> impl Iterator<Item = u32> {
        self.runs(set).iter().flat_map(|(start, end)| *start..*end)
    }

    fn runs(&self, set: SetId) -> &[Run] {
        self.sets.get(set as usize).map_or(&[], |runs| runs)
    }

    fn number(&mut self, runs: &[Run]) -> SetId {
        if let Some(known) = self.numbers.get(runs) {
            return *known;
        }
        let number = SetId::try_from(self.sets.len()).expect("memory ends before that");
        let runs: Arc<[Run]> = runs.into();
        self.sets.push(Arc::clone(&runs));
        self.numbers.insert(runs, number);
        number
    }
}

fn unite(a: &[Run], b: &[Run]) -> Vec<Run> {
    let mut all = [a, b].concat();
    all.sort_unstable();
    let mut united: Vec<Run> = Vec::with_capacity(all.len());
    for (start, end) in all {
        match united.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => united.push((start, end)),
        }
    }
    united
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn unions_are_those_of_sets_and_have_one_number_each() {
        let mut random = fastrand::Rng::with_seed(8);
        let mut sets = Sets::new();
        let mut known: Vec<(SetId, BTreeSet<u32>)> = vec![(NOBODY, BTreeSet::new())];
        for owner in 0..12 {
            known.push((sets.of(owner), BTreeSet::from([owner])));
        }
        for _ in 0..5000 {
            let (a, b) = (random.usize(0..known.len()), random.usize(0..known.len()));
            let union = sets.union(known[a].0, known[b].0);
            let model: BTreeSet<u32> = known[a].1.union(&known[b].1).copied().collect();
            assert_eq!(sets.owners(union).collect::<BTreeSet<_>>(), model);
            let same = known.iter().find(|(_, owners)| *owners == model);
            match same {
                Some((number, _)) => assert_eq!(union, *number),
                None => known.push((union, model)),
            }
        }
        assert!(sets.len() <= 1 << 12);
    }
}
