//! A cache with a bound of memory for many threads: shards, each a ring swept by a hand.
//!
//! A hit sets one bit under the lock of its shard, so that a cached read costs no ordering. What
//! was used since the hand came by last is passed over once; what comes in and is never used again
//! goes first, so that one pass over a disk does not push out what is used often.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shards: more than threads that read at once.
const SHARDS: usize = 32;

/// Keeps values by key, up to a sum of costs. Values are cheap to clone.
pub(super) struct Clock<V> {
    shards: Box<[Mutex<Shard<V>>]>,
    /// Costs of all values held, and of those for which room is being made.
    cost: AtomicUsize,
    cost_max: usize,
    /// The shard that gives up a value next.
    hand: AtomicUsize,
}

struct Shard<V> {
    places: HashMap<u64, usize, BuildHasherDefault<Mixer>>,
    ring: Vec<Entry<V>>,
    hand: usize,
}

struct Entry<V> {
    key: u64,
    value: V,
    cost: usize,
    used: bool,
}

impl<V: Clone> Clock<V> {
    /// Returns an empty cache that holds values of `cost_max` in sum at most.
    pub(super) fn new(cost_max: usize) -> Self {
        let shard = || {
            Mutex::new(Shard {
                places: HashMap::default(),
                ring: Vec::new(),
                hand: 0,
            })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            cost: AtomicUsize::new(0),
            cost_max,
            hand: AtomicUsize::new(0),
        }
    }

    /// Returns the most that values may cost in sum.
    pub(super) fn cost_max(&self) -> usize {
        self.cost_max
    }

    /// Returns what the values held cost.
    pub(super) fn cost(&self) -> usize {
        self.cost.load(Ordering::Relaxed)
    }

    /// Returns a value, if it is held.
    pub(super) fn get(&self, key: u64) -> Option<V> {
        let mut shard = lock(self.shard(key));
        let at = *shard.places.get(&key)?;
        let entry = shard.ring.get_mut(at)?;
        entry.used = true;
        Some(entry.value.clone())
    }

    /// Takes a value in, once there is room for it. One that costs more than the whole cache may
    /// is not kept. Values that go are handed to `gone`.
    pub(super) fn insert(&self, key: u64, value: V, cost: usize, mut gone: impl FnMut(V)) {
        if cost > self.cost_max {
            return;
        }
        let mut all = self.cost.fetch_add(cost, Ordering::Relaxed) + cost;
        let mut barren = 0;
        while all > self.cost_max && barren <= 2 * SHARDS {
            let next = self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let entry = self
                .shards
                .get(next)
                .and_then(|shard| lock(shard).give_up());
            // The value itself goes here, where no lock is held.
            match entry {
                Some(entry) => {
                    self.cost.fetch_sub(entry.cost, Ordering::Relaxed);
                    gone(entry.value);
                    barren = 0;
                }
                None => barren += 1,
            }
            all = self.cost.load(Ordering::Relaxed);
        }
        let entry = Entry {
            key,
            value,
            cost,
            used: false,
        };
        let replaced = lock(self.shard(key)).put(entry);
        if let Some(entry) = replaced {
            self.cost.fetch_sub(entry.cost, Ordering::Relaxed);
        }
    }

    fn shard(&self, key: u64) -> &Mutex<Shard<V>> {
        let number = (mix(key) >> 40) % SHARDS as u64;
        let number = usize::try_from(number).expect("a shard's number is small");
        self.shards.get(number).expect("a remainder of their count")
    }
}

impl<V> Shard<V> {
    /// Puts an entry in, and returns the one that stood under its key.
    fn put(&mut self, entry: Entry<V>) -> Option<Entry<V>> {
        if let Some(held) = self
            .places
            .get(&entry.key)
            .and_then(|at| self.ring.get_mut(*at))
        {
            return Some(std::mem::replace(held, entry));
        }
        self.places.insert(entry.key, self.ring.len());
        self.ring.push(entry);
        None
    }

    /// Takes out the first entry from the hand on that was not used since the hand came by. If all
    /// were, none goes, this time: other shards may hold what nobody uses.
    fn give_up(&mut self) -> Option<Entry<V>> {
        for _ in 0..self.ring.len() {
            if self.hand >= self.ring.len() {
                self.hand = 0;
            }
            let entry = self.ring.get_mut(self.hand)?;
            if entry.used {
                entry.used = false;
                self.hand += 1;
                continue;
            }
            let gone = self.ring.swap_remove(self.hand);
            self.places.remove(&gone.key);
            if let Some(moved) = self.ring.get(self.hand) {
                self.places.insert(moved.key, self.hand);
            }
            // What has moved here is the newest: its turn comes in the next round.
            self.hand += 1;
            return Some(gone);
        }
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere cannot leave a shard half changed in a way that matters to a cache.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn mix(key: u64) -> u64 {
    let key = (key ^ (key >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key ^ (key >> 29)
}

/// Mixes one number. Keys count packs, frames and windows: nobody from outside chooses them.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_never_exceed_the_bound() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let clock = Clock::new(1000);
        for _ in 0..10_000 {
            let key = random.u64(..300);
            if clock.get(key).is_some_and(|held| held != key) {
                panic!("seed {seed}: {key} has another's value");
            }
            clock.insert(key, key, random.usize(1..40), drop);
            assert!(clock.cost() <= 1000, "seed {seed}");
        }
        let held: usize = (0..300).filter(|key| clock.get(*key).is_some()).count();
        assert!(held > 20, "seed {seed}: {held}");
    }

    #[test]
    fn what_is_used_survives_one_pass_over_much() {
        let clock = Clock::new(100);
        for key in 0..50 {
            clock.insert(key, (), 1, drop);
        }
        for pass in 0..1000 {
            for key in 0..50 {
                clock.get(key);
            }
            clock.insert(1000 + pass, (), 1, drop);
        }
        let left = (0..50).filter(|key| clock.get(*key).is_some()).count();
        assert_eq!(left, 50);
    }

    #[test]
    fn what_is_larger_than_all_is_not_kept() {
        let clock = Clock::new(10);
        clock.insert(1, "one", 10, drop);
        clock.insert(2, "two", 11, drop);
        assert_eq!(clock.get(1), Some("one"));
        assert_eq!(clock.get(2), None);
        clock.insert(1, "uno", 3, drop);
        assert_eq!((clock.get(1), clock.cost()), (Some("uno"), 3));
    }
}
