//! A cache with a bound of memory that lets go of what was unused for longest.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps values by key, up to a sum of costs. Shared by threads; values are cheap to clone.
pub struct Cache<K, V> {
    cost_max: usize,
    held: Mutex<Held<K, V>>,
}

struct Held<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Time of last use to key: the first is the one to go.
    by_use: BTreeMap<u64, K>,
    cost: usize,
    clock: u64,
}

struct Entry<V> {
    value: V,
    cost: usize,
    used: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    /// Returns an empty cache that holds values of `cost_max` in sum at most.
    pub fn new(cost_max: usize) -> Self {
        let (entries, by_use) = (HashMap::new(), BTreeMap::new());
        Self {
            cost_max,
            held: Mutex::new(Held {
                entries,
                by_use,
                cost: 0,
                clock: 0,
            }),
        }
    }

    /// Returns a value, if it is held.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut held = self.lock();
        held.clock += 1;
        let now = held.clock;
        let entry = held.entries.get_mut(key)?;
        let before = std::mem::replace(&mut entry.used, now);
        let value = entry.value.clone();
        held.by_use.remove(&before);
        held.by_use.insert(now, *key);
        Some(value)
    }

    /// Takes a value in. One that costs more than the whole cache may is not kept.
    pub fn insert(&self, key: K, value: V, cost: usize) {
        if cost > self.cost_max {
            return;
        }
        let mut held = self.lock();
        held.clock += 1;
        let now = held.clock;
        held.cost += cost;
        if let Some(old) = held.entries.insert(
            key,
            Entry {
                value,
                cost,
                used: now,
            },
        ) {
            held.cost -= old.cost;
            held.by_use.remove(&old.used);
        }
        held.by_use.insert(now, key);
        while held.cost > self.cost_max {
            let Some((_, oldest)) = held.by_use.pop_first() else {
                return;
            };
            if let Some(gone) = held.entries.remove(&oldest) {
                held.cost -= gone.cost;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held<K, V>> {
        // A panic elsewhere cannot leave the maps half changed in a way that matters to a cache.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_unused_for_longest_goes_first() {
        let cache = Cache::new(2);
        cache.insert(1, "one", 1);
        cache.insert(2, "two", 1);
        assert_eq!(cache.get(&1), Some("one"));
        cache.insert(3, "three", 1);
        assert_eq!(cache.get(&2), None);
        assert_eq!(cache.get(&1), Some("one"));
        assert_eq!(cache.get(&3), Some("three"));
    }

    #[test]
    fn a_value_put_anew_counts_once() {
        let cache = Cache::new(3);
        for _ in 0..10 {
            cache.insert(1, "one", 2);
        }
        cache.insert(2, "two", 1);
        assert_eq!(cache.get(&1), Some("one"));
        cache.insert(3, "too dear", 4);
        assert_eq!(cache.get(&3), None);
    }
}
