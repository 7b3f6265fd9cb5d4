//! What all images of a process share: decoded frames and windows within one bound of memory, and
//! the threads that read ahead.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::ahead::Workers;
use super::clock::Clock;
use super::flights::Flights;
use super::frame::{Frame, Spot};
use super::window::Window;
use crate::compress::Decompressor;
use crate::id::{ChunkId, ContentId, PackId};
use crate::limits::MIB;
use crate::pack::PackError;
use crate::repository::{Copies, RepositoryError};

/// Bound of a cache that leaves an export under 256 MiB, all else that it keeps included: the
/// caches of its session (72 MiB) and of the index (32 MiB), buffers (36 MiB) and code.
pub const CACHE_BYTES_DEFAULT: usize = 96 * MIB as usize;
/// The part of the bound that windows get: 5 KiB of them stand for 2 MiB of a disk.
const WINDOWS_PART: usize = 8;
/// Idle sets of buffers kept: more threads than this seldom decode at once.
const BUFFERS_MAX: usize = 8;
/// Bytes of idle buffers of frames kept: enough that one of the right length is among them.
const PLAINS_BYTES_MAX: usize = 4 * MIB as usize;
/// Buffers of frames are multiples of this, so that more of them fit.
const PLAIN_UNIT: usize = 4096;
/// A set with a larger buffer is not kept: frames of this length are rare.
const BUFFER_KEPT_MAX: usize = MIB as usize;
/// Chunks remembered that did not lie where the index says: 4 MiB at most.
const MENDED_MAX: usize = 32 * 1024;
/// How long a chunk counts as lost after all packs were searched for it.
const LOST_FOR: Duration = Duration::from_secs(20);
/// How long a search counts that a pack was out of reach of: it may be back any moment, but not
/// every read can try.
const UNREACHABLE_FOR: Duration = Duration::from_secs(2);
/// Searches remembered.
const SEARCHES_MAX: usize = 4;
/// Chunks that one search looks for on suspicion; what is found of them takes 3 MiB.
pub(super) const SEARCH_IDS_MAX: usize = 16 * 1024;

/// Decoded frames and resolved windows of any number of images, within one bound of memory.
pub struct ImageCache {
    pub(super) frames: Clock<Arc<Frame>>,
    pub(super) windows: Clock<Arc<Window>>,
    pub(super) loading: Flights<Result<Arc<Frame>, Arc<PackError>>>,
    pub(super) workers: Workers,
    packs: RwLock<PackNumbers>,
    images: AtomicU32,
    buffers: Mutex<Vec<Buffers>>,
    /// Buffers of frames that went, the oldest first.
    plains: Mutex<Plains>,
    mended: Mutex<HashMap<ChunkId, Mended>>,
    /// Who searches all packs at the moment.
    pub(super) searching: Flights<Result<(), Arc<RepositoryError>>>,
    /// What the next search is to look for.
    wanted: Mutex<HashSet<ContentId>>,
    /// The last searches, the newest first.
    searches: Mutex<VecDeque<Arc<Searched>>>,
}

/// What one thread needs to decode frames.
#[derive(Default)]
pub(super) struct Buffers {
    pub(super) decompressor: Decompressor,
    pub(super) stored: Vec<u8>,
}

#[derive(Default)]
struct Plains {
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Plains {
    /// Takes out the `at`th buffer.
    fn take(&mut self, at: usize) -> Option<Vec<u8>> {
        let taken = self.buffers.remove(at)?;
        self.bytes -= taken.capacity();
        Some(taken)
    }
}

/// What a search of all packs found out of a chunk.
#[derive(Clone)]
pub(super) enum Mended {
    /// A whole copy lies here.
    At(Spot),
    /// There was none, a moment ago.
    Lost(Instant, Arc<RepositoryError>),
}

/// What a search of all packs found.
pub(super) struct Searched {
    pub(super) when: Instant,
    /// What was looked for.
    pub(super) ids: HashSet<ContentId>,
    pub(super) copies: Copies,
    /// A pack that could not be searched.
    pub(super) unreachable: Option<Arc<PackError>>,
}

impl Searched {
    fn counts(&self) -> bool {
        let counts_for = match self.unreachable {
            None => LOST_FOR,
            Some(_) => UNREACHABLE_FOR,
        };
        self.when.elapsed() <= counts_for
    }
}

/// Packs by small numbers, so that a place fits one word.
#[derive(Default)]
struct PackNumbers {
    numbers: HashMap<PackId, u32>,
    ids: Vec<PackId>,
}

impl ImageCache {
    /// Returns an empty cache that keeps about `bytes_max` bytes at most. What is being decoded or
    /// copied at the moment comes on top: about a frame for each thread.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        let windows_max = bytes_max / WINDOWS_PART;
        let frames_max = bytes_max - windows_max;
        Arc::new(Self {
            frames: Clock::new(frames_max),
            windows: Clock::new(windows_max),
            loading: Flights::new(),
            workers: Workers::new(frames_max as u64 / 2),
            packs: RwLock::default(),
            images: AtomicU32::new(0),
            buffers: Mutex::default(),
            plains: Mutex::default(),
            mended: Mutex::default(),
            searching: Flights::new(),
            wanted: Mutex::default(),
            searches: Mutex::default(),
        })
    }

    /// Returns how many bytes are kept now.
    pub fn bytes(&self) -> usize {
        self.frames.cost() + self.windows.cost()
    }

    /// Returns how many bytes may be read ahead of a client: a small part of what is kept.
    pub(super) fn ahead_max(&self) -> u64 {
        (self.frames.cost_max() / 8) as u64
    }

    pub(super) fn next_image(&self) -> u32 {
        self.images.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn number_of(&self, pack: PackId) -> u32 {
        let held = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = held.numbers.get(&pack) {
            return *number;
        }
        drop(held);
        let mut held = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        let PackNumbers { numbers, ids } = &mut *held;
        *numbers.entry(pack).or_insert_with(|| {
            ids.push(pack);
            u32::try_from(ids.len() - 1).expect("no storage has 2^32 packs")
        })
    }

    pub(super) fn pack(&self, number: u32) -> PackId {
        let held = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        *held
            .ids
            .get(number as usize)
            .expect("numbers are given out")
    }

    pub(super) fn take_buffers(&self) -> Buffers {
        let mut held = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        held.pop().unwrap_or_default()
    }

    pub(super) fn give_buffers(&self, buffers: Buffers) {
        let mut held = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() < BUFFERS_MAX && buffers.stored.capacity() <= BUFFER_KEPT_MAX {
            held.push(buffers);
        }
    }

    /// Returns an empty buffer for `len` plain bytes, with little room beyond.
    pub(super) fn take_plain(&self, len: usize) -> Vec<u8> {
        let mut held = self.plains.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |plain: &Vec<u8>| (len..=len + len / 8).contains(&plain.capacity());
        let found = held.buffers.iter().position(fits);
        let found = found.and_then(|at| held.take(at));
        drop(held);
        found.unwrap_or_else(|| Vec::with_capacity(len.next_multiple_of(PLAIN_UNIT)))
    }

    /// Keeps the buffer of a frame that nobody uses any more, for the next one. Fresh memory costs
    /// page faults, and what one thread frees the allocator seldom gives to another: each would
    /// come to hold a share of its own.
    pub(super) fn recycle(&self, frame: Arc<Frame>) {
        let Some(frame) = Arc::into_inner(frame) else {
            return;
        };
        let plain = frame.into_buffer();
        if plain.capacity() > BUFFER_KEPT_MAX {
            return;
        }
        let mut held = self.plains.lock().unwrap_or_else(PoisonError::into_inner);
        held.bytes += plain.capacity();
        held.buffers.push_back(plain);
        let mut gone = Vec::new();
        while held.bytes > PLAINS_BYTES_MAX {
            gone.extend(held.take(0));
        }
        drop(held);
        drop(gone);
    }

    /// Returns what the last search of all packs found out of a chunk, as long as that counts.
    pub(super) fn mended(&self, id: ChunkId) -> Option<Mended> {
        let held = self.mended.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get(&id)? {
            Mended::Lost(when, _) if when.elapsed() > LOST_FOR => None,
            mended => Some(mended.clone()),
        }
    }

    pub(super) fn remember(&self, id: ChunkId, mended: Mended) {
        let mut held = self.mended.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MENDED_MAX {
            held.clear();
        }
        held.insert(id, mended);
    }

    /// Has the next search look for these too.
    pub(super) fn want(&self, ids: impl Iterator<Item = ContentId>) {
        let mut held = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() < SEARCH_IDS_MAX {
            held.extend(ids);
        }
    }

    /// Takes what the next search is to look for.
    pub(super) fn take_wanted(&self) -> HashSet<ContentId> {
        let mut held = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *held)
    }

    /// Returns the newest search that looked for `id`, as long as that counts.
    pub(super) fn searched(&self, id: ContentId) -> Option<Arc<Searched>> {
        let mut held = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|searched| searched.counts());
        let found = held.iter().find(|searched| searched.ids.contains(&id));
        found.map(Arc::clone)
    }

    pub(super) fn remember_search(&self, searched: Arc<Searched>) {
        let mut held = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        held.truncate(SEARCHES_MAX - 1);
        held.push_front(searched);
    }
}
