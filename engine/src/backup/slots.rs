//! How many regions are in memory at once, over all disks of a backup.
//!
//! Every lane, which takes in one disk at a time, has a slot of its own, so that no disk waits for
//! another that hangs. The others go to whoever comes first: a large disk gets all the threads once
//! the small ones are done.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::bytes::RegionBuffer;

/// The slots of a backup.
pub(super) struct Slots {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    /// Free slots for any lane.
    shared: usize,
    /// Whether each lane's own slot is free.
    own: Vec<bool>,
    /// Memory of free slots that were used before.
    buffers: Vec<RegionBuffer>,
}

/// Leave to have one region in memory, with the memory. Given back on drop.
pub(super) struct Slot<'s> {
    slots: &'s Slots,
    /// The lane whose own slot it is.
    owner: Option<usize>,
    buffer: Option<RegionBuffer>,
}

impl Slots {
    /// Makes `total` slots, and at least one for each lane.
    pub(super) fn new(total: usize, lanes: usize) -> Self {
        let state = State {
            shared: total.saturating_sub(lanes),
            own: vec![true; lanes],
            buffers: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            freed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot. Returns `None` once `is_stopped`: it is asked when a slot is given back.
    pub(super) fn take(
        &self,
        lane: usize,
        is_stopped: impl Fn() -> bool,
    ) -> io::Result<Option<Slot<'_>>> {
        let mut state = self.state();
        let owner = loop {
            if is_stopped() {
                return Ok(None);
            }
            if std::mem::take(&mut state.own[lane]) {
                break Some(lane);
            }
            if state.shared > 0 {
                state.shared -= 1;
                break None;
            }
            state = self
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        };
        let buffer = state.buffers.pop();
        drop(state);
        let mut slot = Slot {
            slots: self,
            owner,
            buffer,
        };
        if slot.buffer.is_none() {
            slot.buffer = Some(RegionBuffer::new()?);
        }
        Ok(Some(slot))
    }

    /// Lets the others have the slot of a lane that takes in no more disks.
    pub(super) fn retire(&self, lane: usize) {
        let mut state = self.state();
        if std::mem::take(&mut state.own[lane]) {
            state.shared += 1;
        }
        drop(state);
        self.freed.notify_all();
    }
}

impl Slot<'_> {
    /// Returns the memory.
    pub(super) fn buffer(&mut self) -> &mut RegionBuffer {
        self.buffer.as_mut().expect("only drop takes it")
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.slots.state();
        state.buffers.extend(self.buffer.take());
        match self.owner {
            Some(lane) => state.own[lane] = true,
            None => state.shared += 1,
        }
        drop(state);
        self.slots.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_keeps_its_own_slot_until_it_retires() -> io::Result<()> {
        let slots = Slots::new(3, 2);
        let go_on = || false;
        let first = slots.take(0, go_on)?.expect("its own");
        let second = slots.take(0, go_on)?.expect("the shared one");
        assert_eq!((first.owner, second.owner), (Some(0), None));
        // The other lane's is not to be had, however long one waits; its own lane has it at once.
        assert_eq!(slots.state().shared, 0);
        let other = slots.take(1, go_on)?.expect("its own");
        assert!(slots.take(0, || true)?.is_none());
        drop((first, second, other));
        slots.retire(1);
        let all: Vec<_> = (0..3).map(|_| slots.take(0, go_on)).collect();
        assert!(all.iter().all(|slot| matches!(slot, Ok(Some(_)))));
        assert_eq!(slots.state().buffers.len(), 0, "memory is used again");
        Ok(())
    }
}
