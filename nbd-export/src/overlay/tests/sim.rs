//! A medium in memory that can be killed, loses power, fails and fills up.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use crate::overlay::mark::Mark;
use crate::overlay::medium::Medium;

const SECTOR: u64 = 512;
const PAGE: u64 = 4096;

type Sector = [u8; SECTOR as usize];

#[derive(Default)]
struct State {
    /// As a reader sees it.
    live: HashMap<u64, Sector>,
    /// As a power cut would leave it at best and at worst: any one of a sector's versions.
    versions: HashMap<u64, Vec<Sector>>,
    /// What the medium has where a page was not written out and is shown all the same, until it
    /// is read anew.
    lost: HashMap<u64, Sector>,
    marks: HashSet<Mark>,
    syncs: usize,
    /// Bytes that may be written before the medium is full.
    space: Option<u64>,
    /// How many syncs are done before one fails.
    fail_sync: Option<usize>,
    /// Whether pages cannot be let go of.
    keeps_cached: bool,
    /// Whether no write is taken once a sync failed.
    stops_then: bool,
    is_read_only: bool,
    /// Changes that are still done before the process dies in the middle of things.
    last_changes: Option<usize>,
    /// What somebody else does right after the next sync took effect.
    after_sync: Option<Box<dyn FnOnce() + Send>>,
    /// What somebody else does during the next reading or writing, once it took effect.
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
}

/// The medium; its clones are handles of one file.
#[derive(Clone, Default)]
pub struct Sim {
    state: Arc<Mutex<State>>,
    /// A killed process does nothing more.
    killed: Arc<AtomicBool>,
}

impl Sim {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panicked")
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        match self.killed.load(Ordering::SeqCst) {
            true => Err(io::Error::other("killed")),
            false => Ok(self.lock()),
        }
    }

    /// As [`Sim::alive`], for something that changes the file, or makes it durable.
    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.alive()?;
        match &mut state.last_changes {
            Some(0) => {
                self.killed.store(true, Ordering::SeqCst);
                return Err(io::Error::other("killed now"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        match state.is_read_only {
            true => Err(Errno::ROFS.into()),
            false => Ok(state),
        }
    }

    fn act_meanwhile(&self) {
        let act = self.lock().meanwhile.take();
        if let Some(act) = act {
            act();
        }
    }

    /// Lets something happen between the next reading or writing and the return of its call.
    pub fn meanwhile(&self, act: impl FnOnce() + Send + 'static) {
        self.lock().meanwhile = Some(Box::new(act));
    }

    /// Ends the process after so many more changes of the file; `None` takes it back.
    pub fn die_after(&self, changes: Option<usize>) {
        self.lock().last_changes = changes;
    }

    /// Lets something happen between the next sync and the return of its call.
    pub fn after_sync(&self, act: impl FnOnce() + Send + 'static) {
        self.lock().after_sync = Some(Box::new(act));
    }

    pub fn is_dead(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// Ends the process that has this handle; returns the handle of the next.
    pub fn kill(&self) -> Self {
        self.killed.store(true, Ordering::SeqCst);
        Self {
            state: self.state.clone(),
            killed: Arc::default(),
        }
    }

    /// Cuts the power: of each sector that was not synced any version is left.
    pub fn cut_power(&self, random: &mut fastrand::Rng) -> Self {
        let next = self.mount_again(random);
        self.lock().marks.clear();
        next
    }

    /// Ends the process, and mounts the file system anew after what was not synced could not be
    /// written either.
    pub fn mount_again(&self, random: &mut fastrand::Rng) -> Self {
        let next = self.kill();
        let mut state = self.lock();
        state.is_read_only = false;
        state.drop_cached();
        for (number, versions) in std::mem::take(&mut state.versions) {
            let left = versions[random.usize(0..versions.len())];
            state.live.insert(number, left);
        }
        drop(state);
        next
    }

    /// Lets a sync fail after so many others, and lose what it was to write: at once, or once
    /// it is read anew.
    pub fn fail_sync(&self, after: usize) {
        self.lock().fail_sync = Some(after);
    }

    /// As [`Sim::fail_sync`]; no more writes are taken then, until the file system is mounted
    /// again.
    pub fn fail_sync_and_stop(&self, after: usize) {
        self.fail_sync(after);
        self.lock().stops_then = true;
    }

    /// Goes on showing what was lost, as long as the machine runs.
    pub fn keep_cached(&self) {
        self.lock().keeps_cached = true;
    }

    /// Leaves room for so many bytes; `None` for plenty.
    pub fn set_space(&self, space: Option<u64>) {
        self.lock().space = space;
    }

    pub fn syncs(&self) -> usize {
        self.lock().syncs
    }

    pub fn flip(&self, at: u64, bit: u8) {
        let mut state = self.lock();
        let sector = state.live.entry(at / SECTOR).or_insert([0; 512]);
        sector[(at % SECTOR) as usize] ^= bit;
    }

    /// Returns where bytes are that are not zero.
    pub fn sectors_in(&self, range: Range<u64>) -> Vec<u64> {
        let state = self.lock();
        let mut found: Vec<u64> = state
            .live
            .iter()
            .filter(|(number, bytes)| range.contains(&(*number * SECTOR)) && **bytes != [0; 512])
            .map(|(number, _)| number * SECTOR)
            .collect();
        found.sort_unstable();
        found
    }
}

impl State {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (number, from) = (at / SECTOR, (at % SECTOR) as usize);
            let len = rest.len().min(SECTOR as usize - from);
            let old = self.live.get(&number).copied().unwrap_or([0; 512]);
            let mut new = old;
            new[from..from + len].copy_from_slice(&rest[..len]);
            self.live.insert(number, new);
            let before = self.lost.remove(&number).unwrap_or(old);
            let versions = self.versions.entry(number);
            versions.or_insert_with(|| vec![before]).push(new);
            at += len as u64;
            rest = &rest[len..];
        }
    }

    fn drop_cached(&mut self) {
        self.live.extend(std::mem::take(&mut self.lost));
    }

    /// The pages count as clean from now on. Some are read anew, and some stay for a while.
    fn lose_unsynced(&mut self) {
        for (number, versions) in std::mem::take(&mut self.versions) {
            let left = versions[number as usize % versions.len()];
            let stays = self.keeps_cached || (number * SECTOR / PAGE).is_multiple_of(2);
            let shown = if stays {
                &mut self.lost
            } else {
                &mut self.live
            };
            shown.insert(number, left);
        }
    }

    /// Takes space for a write, and returns how much of it there is.
    fn take_space(&mut self, len: u64) -> u64 {
        let Some(space) = &mut self.space else {
            return len;
        };
        let taken = len.min(*space);
        *space -= taken;
        taken
    }
}

fn no_space() -> io::Error {
    Errno::NOSPC.into()
}

impl Medium for Sim {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let state = self.alive()?;
        for (byte, at) in buf.iter_mut().zip(offset..) {
            let sector = state.live.get(&(at / SECTOR));
            *byte = sector.map_or(0, |sector| sector[(at % SECTOR) as usize]);
        }
        drop(state);
        self.act_meanwhile();
        Ok(())
    }

    fn read_cached_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        !offset.is_multiple_of(3) && self.read_at(offset, buf).is_ok()
    }

    fn write_at(&self, offset: u64, parts: [&[u8]; 3]) -> io::Result<()> {
        let mut state = self.change()?;
        let bytes = parts.concat();
        let len = bytes.len() as u64;
        let room = state.take_space(len);
        // A page finds space whole or not at all.
        let end = match room == len {
            true => offset + len,
            false => ((offset + room) / PAGE * PAGE).max(offset),
        };
        state.write(offset, &bytes[..(end - offset) as usize]);
        drop(state);
        self.act_meanwhile();
        match room == len {
            true => Ok(()),
            false => Err(no_space()),
        }
    }

    fn zero(&self, range: Range<u64>, _: bool) -> io::Result<()> {
        let mut state = self.change()?;
        // A hole over more than anyone looks at would only take time.
        let mut numbers: Vec<u64> = state.live.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let start = (number * SECTOR).max(range.start);
            let end = ((number + 1) * SECTOR).min(range.end);
            if start < end {
                state.write(start, &vec![0; (end - start) as usize]);
            }
        }
        Ok(())
    }

    fn reserve(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.change()?;
        let len = range.end - range.start;
        if state.take_space(len) < len {
            return Err(no_space());
        }
        Ok(())
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let state = self.alive()?;
        let pages = state.live.iter().filter(|(_, bytes)| **bytes != [0; 512]);
        let pages = pages.map(|(number, _)| number * SECTOR / PAGE * PAGE);
        let first = pages.filter(|page| page + PAGE > range.start && *page < range.end);
        let first = first.min();
        drop(state);
        self.act_meanwhile();
        Ok(first.map(|page| page.max(range.start)..(page + PAGE).min(range.end)))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.change()?;
        state.syncs += 1;
        match state.fail_sync.take() {
            Some(0) => {
                state.lose_unsynced();
                state.is_read_only = std::mem::take(&mut state.stops_then);
                return Err(Errno::IO.into());
            }
            after => state.fail_sync = after.map(|after| after - 1),
        }
        state.versions.clear();
        let after = state.after_sync.take();
        drop(state);
        if let Some(after) = after {
            after();
        }
        Ok(())
    }

    fn drop_cached(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        if !state.keeps_cached {
            state.drop_cached();
        }
        Ok(())
    }

    fn set_mark(&self, mark: Mark) -> io::Result<()> {
        self.alive()?.marks.insert(mark);
        Ok(())
    }

    fn has_mark(&self, mark: Mark) -> io::Result<bool> {
        Ok(self.alive()?.marks.contains(&mark))
    }

    fn remove_mark(&self, mark: Mark) -> io::Result<()> {
        self.alive()?.marks.remove(&mark);
        Ok(())
    }
}
