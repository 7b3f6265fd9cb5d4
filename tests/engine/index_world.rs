//! Packs that exist only as footers, and the oracle of what an index over them must answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cairn_engine::id::{ContentId, PackId, RepositoryId};
use cairn_engine::index::{
    Anywhere, Index, IndexOptions, OpenReport, PackFooters, PackPrefix, Place, find_anywhere,
};

pub type Places = Vec<(ContentId, Place)>;

/// The chunk of this number.
pub fn chunk(number: u64) -> ContentId {
    let mut bytes = [0; 32];
    fastrand::Rng::with_seed(number ^ 0xc4a1).fill(&mut bytes);
    ContentId::from_bytes(bytes)
}

/// The pack of this number.
pub fn pack(number: u64) -> PackId {
    let mut bytes = [0; 32];
    fastrand::Rng::with_seed(number ^ 0x9ac4_0000).fill(&mut bytes);
    PackId::from_bytes(bytes)
}

/// A footer of `pack` that lists these chunks in their order.
pub fn footer(pack: PackId, chunks: impl IntoIterator<Item = u64>) -> Places {
    let place = |(at, number): (usize, u64)| {
        let place = Place {
            pack: PackPrefix::of(pack),
            frame: u16::try_from(at / 8).expect("footers of tests are short"),
            slot: u16::try_from(at % 8).expect("less than eight"),
            len: u32::try_from(1 + number % 65_536).expect("bounded"),
        };
        (chunk(number), place)
    };
    chunks.into_iter().enumerate().map(place).collect()
}

/// A repository's packs and the folder of its index.
pub struct World {
    pub dir: tempfile::TempDir,
    pub packs: BTreeMap<PackId, Places>,
    pub present: BTreeSet<PackId>,
    pub unreadable: BTreeSet<PackId>,
    pub footers_read: AtomicUsize,
    pub overlay_memory: u64,
    pub lock_wait: Duration,
}

/// The footer of this pack cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable(pub PackId);

impl PackFooters for World {
    type Error = Unreadable;

    fn places(&self, pack: PackId) -> Result<Places, Unreadable> {
        self.footers_read.fetch_add(1, Ordering::Relaxed);
        match self.packs.get(&pack) {
            Some(places) if !self.unreadable.contains(&pack) => Ok(places.clone()),
            _ => Err(Unreadable(pack)),
        }
    }
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("the temporary folder can be written");
        std::fs::create_dir(dir.path().join("tmp")).expect("a fresh folder takes a folder");
        Self {
            dir,
            packs: BTreeMap::new(),
            present: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            footers_read: AtomicUsize::new(0),
            overlay_memory: 64 << 20,
            lock_wait: Duration::from_secs(60),
        }
    }

    /// A world of packs `0..packs` of 100 chunks each; every pack shares half of its chunks with
    /// the next.
    pub fn of_packs(packs: u64) -> Self {
        let mut world = Self::new();
        for number in 0..packs {
            world.publish(number);
        }
        world
    }

    /// Makes a pack present that shares half of its chunks with the next.
    pub fn publish(&mut self, number: u64) -> (PackId, Places) {
        let pack = pack(number);
        let places = footer(pack, number * 50..number * 50 + 100);
        self.packs.insert(pack, places.clone());
        self.present.insert(pack);
        (pack, places)
    }

    pub fn index_dir(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    pub fn temp_dir(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    pub fn database(&self) -> PathBuf {
        self.index_dir().join("db")
    }

    pub fn options(&self) -> IndexOptions {
        let repository = RepositoryId::from_bytes([7; 32]);
        let mut options = IndexOptions::new(self.index_dir(), self.temp_dir(), repository);
        options.overlay_memory = self.overlay_memory;
        options.lock_wait = self.lock_wait;
        options
    }

    pub fn open(&self) -> (Index, OpenReport<Unreadable>) {
        self.open_with(self.options())
    }

    pub fn open_read_only(&self) -> (Index, OpenReport<Unreadable>) {
        let mut options = self.options();
        options.writable = false;
        self.open_with(options)
    }

    pub fn open_with(&self, options: IndexOptions) -> (Index, OpenReport<Unreadable>) {
        let present: Vec<_> = self.present.iter().copied().collect();
        Index::open(options, &present, self).expect("the temporary folder can be written")
    }

    /// Every chunk that any pack holds, present or not, and one that none holds.
    pub fn chunks(&self) -> Vec<ContentId> {
        let mut chunks: Vec<_> = self.packs.values().flatten().map(|(id, _)| *id).collect();
        chunks.push(chunk(u64::MAX));
        fastrand::Rng::with_seed(chunks.len() as u64).shuffle(&mut chunks);
        chunks
    }

    /// Where packs that are present hold this chunk.
    fn expected(&self) -> BTreeMap<ContentId, BTreeSet<(PackId, Place)>> {
        let mut expected: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for pack in &self.present {
            for (id, place) in &self.packs[pack] {
                expected.entry(*id).or_default().insert((*pack, *place));
            }
        }
        expected
    }

    /// Checks that every answer is right, and that none is missing if the index is `complete`.
    pub fn check(&self, index: &Index, complete: bool, what: &str) {
        let expected = self.expected();
        let chunks = self.chunks();
        let found = index.find(&chunks).expect("private files can be read");
        assert_eq!(found.len(), chunks.len());
        for (id, place) in chunks.iter().zip(found) {
            let right = expected.get(id);
            match place {
                Some(place) => {
                    let pack = index.pack(place.pack).unwrap_or_else(|| {
                        panic!("{what}: {id:?} is said to lie in a pack that is not present")
                    });
                    let is_right = right.is_some_and(|right| right.contains(&(pack, place)));
                    assert!(is_right, "{what}: {id:?} does not lie at {place:?}");
                }
                None => assert!(
                    !complete || right.is_none(),
                    "{what}: {id:?} is not found, it lies at {right:?}"
                ),
            }
        }
    }

    /// Searches the footers of all packs that are present for every chunk.
    pub fn search(&self) -> Anywhere<Unreadable> {
        let packs: Vec<PackId> = self.present.iter().copied().collect();
        let chunks = self.chunks().into_iter().collect();
        find_anywhere(&packs, &chunks, self).expect("it can be searched")
    }

    /// Checks that the slow way finds everything, whatever the index knows.
    pub fn check_anywhere(&self, what: &str) {
        let expected = self.expected();
        let chunks = self.chunks();
        let anywhere = self.search();
        assert_eq!(anywhere.unreadable, [], "{what}");
        for id in &chunks {
            let mut found = anywhere.found.get(id).cloned().unwrap_or_default();
            found.sort_unstable();
            let mut right: Vec<_> = expected.get(id).into_iter().flatten().copied().collect();
            right.sort_unstable();
            assert_eq!(found, right, "{what}: places of {id:?}");
        }
        assert!(
            anywhere.found.keys().all(|id| chunks.contains(id)),
            "{what}"
        );
    }
}

/// Copies a folder of plain files.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the temporary folder can be written");
    for entry in std::fs::read_dir(from).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().expect("entries have names");
        std::fs::copy(&path, to.join(name)).expect("plain files can be copied");
    }
}
