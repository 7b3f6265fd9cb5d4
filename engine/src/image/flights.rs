//! Work that several threads want done at once, and one does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What is being made, by key.
pub(super) struct Flights<V> {
    held: Mutex<HashMap<u64, Arc<Flight<V>>>>,
}

struct Flight<V> {
    /// `None` until the leader ends; then what it made, unless it failed.
    landed: Mutex<Option<Option<V>>>,
    wake: Condvar,
}

/// What a thread that wants something is to do.
pub(super) enum Joined<'f, V> {
    /// Make it, and say so.
    Lead(Lead<'f, V>),
    /// Take it. `None` where whoever made it failed.
    Landed(Option<V>),
}

/// The duty to make something. Dropped without [`Lead::land`], it counts as failed.
pub(super) struct Lead<'f, V> {
    flights: &'f Flights<V>,
    key: u64,
    flight: Arc<Flight<V>>,
    made: Option<V>,
}

impl<V: Clone> Flights<V> {
    pub(super) fn new() -> Self {
        Self {
            held: Mutex::new(HashMap::new()),
        }
    }

    /// Waits for whoever makes what `key` names, or gives the duty to the caller.
    pub(super) fn join(&self, key: u64) -> Joined<'_, V> {
        let flight = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(flight) = held.get(&key) {
                Arc::clone(flight)
            } else {
                let flight = Arc::new(Flight {
                    landed: Mutex::new(None),
                    wake: Condvar::new(),
                });
                held.insert(key, Arc::clone(&flight));
                return Joined::Lead(Lead {
                    flights: self,
                    key,
                    flight,
                    made: None,
                });
            }
        };
        let landed = flight.landed.lock().unwrap_or_else(PoisonError::into_inner);
        let landed = flight.wake.wait_while(landed, |landed| landed.is_none());
        let landed = landed.unwrap_or_else(PoisonError::into_inner);
        Joined::Landed(landed.clone().flatten())
    }
}

impl<V> Flights<V> {
    /// Gives the duty to make what `key` names to the caller, unless somebody has it. Who waits
    /// for one that is dropped makes it anew.
    pub(super) fn try_lead(&self, key: u64) -> Option<Lead<'_, V>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Entry::Vacant(free) = held.entry(key) else {
            return None;
        };
        let flight = free.insert(Arc::new(Flight {
            landed: Mutex::new(None),
            wake: Condvar::new(),
        }));
        Some(Lead {
            flights: self,
            key,
            flight: Arc::clone(flight),
            made: None,
        })
    }
}

impl<V> Lead<'_, V> {
    /// Gives what was made to all who wait.
    pub(super) fn land(mut self, made: V) {
        self.made = Some(made);
    }
}

impl<V> Drop for Lead<'_, V> {
    fn drop(&mut self) {
        let held = self.flights.held.lock();
        held.unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
        let landed = self.flight.landed.lock();
        *landed.unwrap_or_else(PoisonError::into_inner) = Some(self.made.take());
        self.flight.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_makes_what_many_want() {
        let flights = Flights::new();
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match flights.join(7) {
                    Joined::Landed(value) => assert_eq!(value, Some("made")),
                    Joined::Lead(lead) => {
                        made.fetch_add(1, Ordering::Relaxed);
                        // The table, the lead and the seven others hold the flight.
                        while Arc::strong_count(&lead.flight) < 9 {
                            std::thread::yield_now();
                        }
                        lead.land("made");
                    }
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn a_leader_that_fails_leaves_nobody_waiting() {
        let flights = Flights::<u32>::new();
        let Joined::Lead(lead) = flights.join(7) else {
            panic!("nobody else leads");
        };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| matches!(flights.join(7), Joined::Landed(None)));
            // The table, this lead, and whoever waits hold the flight.
            while Arc::strong_count(&lead.flight) < 3 {
                std::thread::yield_now();
            }
            drop(lead);
            assert!(waiting.join().expect("does not panic"));
        });
        assert!(matches!(flights.join(7), Joined::Lead(_)));
    }
}
