//! Repositories whose objects are in memory, and what lies in which of their packs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_engine::chunker::ChunkRef;
use cairn_engine::format::pack::PackKind;
use cairn_engine::id::{ContentId, NodeId, PackId, SnapshotId};
use cairn_engine::limits::REGION_LEN;
use cairn_engine::recipe::{NodePlace, NodeVisitor, Recipe, RecipeError, Shape};
use cairn_engine::repository::{Access, Contents, Fetcher, Repository, RepositoryError, Snapshot};
use cairn_engine::storage::{Area, Folder, Name, SharedStorage, Storage};

use super::objects::{Objects, Packs};
use super::sim::small_settings;
use super::{MemorySource, TestRepository, snapshot};

/// A repository over objects in memory.
pub struct MemoryRepository {
    _folder: TestRepository,
    pub objects: Arc<Objects>,
    pub repository: Arc<Repository>,
}

/// Returns a repository of small packs that has one backup of these bytes.
pub fn backed_up(bytes: &[u8]) -> (TestRepository, SnapshotId) {
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let source = MemorySource::new(bytes.to_vec());
    let id = folder.backup(source, None).expect("backs up").snapshot;
    (folder, id)
}

/// Returns all packs of another such repository: other packs, for they have salts, with the same
/// contents.
pub fn other_packs(bytes: &[u8]) -> Packs {
    let (folder, _) = backed_up(bytes);
    let folder = Folder::open_at(&folder.path()).expect("opens");
    let packs = folder.list(Area::Packs).expect("packs are listed");
    let read = |name: Name| (name, folder.read(&name, 1 << 30).expect("it is there"));
    packs.into_iter().map(|listed| read(listed.name)).collect()
}

impl MemoryRepository {
    /// Takes a repository over from its folder. Its index is built already.
    pub fn load(folder: TestRepository) -> Self {
        let behind: SharedStorage = Arc::new(Folder::open_at(&folder.path()).expect("opens"));
        let objects = Objects::load(behind);
        let no_passphrase = || -> Result<_, RepositoryError> { panic!("it is not encrypted") };
        let opened = Repository::open(objects.clone(), &folder.options(), false, no_passphrase);
        let this = Self {
            repository: opened.expect("the repository opens"),
            objects,
            _folder: folder,
        };
        drop(this.contents());
        this
    }

    /// Opens a session that reads.
    pub fn contents(&self) -> Contents {
        Contents::open(&self.repository, Access::Read(Vec::new()), "test").expect("opens")
    }

    pub fn snapshot(&self, id: SnapshotId) -> Snapshot {
        snapshot(&self.repository, id)
    }

    /// Returns the packs of a kind with the ids that each holds.
    pub fn packs(&self, kind: PackKind) -> BTreeMap<PackId, BTreeSet<ContentId>> {
        let contents = self.contents();
        let packs = contents.packs();
        let readers = packs
            .iter()
            .map(|pack| contents.footer(*pack).expect("it is whole"));
        let of_kind = readers.filter(|reader| reader.header().kind == kind);
        let ids = of_kind.map(|reader| {
            let ids = reader.footer().entries.iter().map(|entry| entry.id);
            (reader.id(), ids.collect())
        });
        ids.collect()
    }

    /// Returns the ids of all chunks of a snapshot's disk.
    pub fn chunks(&self, id: SnapshotId) -> BTreeSet<ContentId> {
        let (contents, snapshot) = (self.contents(), self.snapshot(id));
        let disk = snapshot.disk("vda").expect("the disk was backed up");
        let window_len = self.repository.chunker().window_len();
        let shape = Shape::new(disk.size, window_len).expect("it was made");
        let chunks = Recipe::new(&contents, shape, disk.recipe).chunks_in(0..disk.size);
        let ids = chunks.map(|chunk| chunk.expect("the recipe is whole").id.into());
        ids.collect()
    }
}

/// What a walk past damage finds.
#[derive(Default)]
struct Found {
    chunks: Vec<ChunkRef>,
    faults: Vec<NodePlace>,
}

impl NodeVisitor for Found {
    fn enter(&mut self, _: NodeId, _: NodePlace) -> bool {
        true
    }

    fn leaf(&mut self, _: NodeId, _: NodePlace, chunks: &[ChunkRef]) {
        self.chunks.extend(chunks);
    }

    fn fault(&mut self, fault: RecipeError) {
        match fault {
            RecipeError::Unreadable { place, .. } => self.faults.push(place),
            fault => panic!("nobody made such a node: {fault}"),
        }
    }
}

/// Returns, for each region of a snapshot's disk, whether it can be restored.
pub fn readable(contents: &Contents, snapshot: &Snapshot) -> Vec<bool> {
    let disk = snapshot.disk("vda").expect("the disk was backed up");
    let window_len = contents.repository().chunker().window_len();
    let shape = Shape::new(disk.size, window_len).expect("it was made");
    let mut found = Found::default();
    Recipe::new(contents, shape, disk.recipe).visit(&mut found);
    let mut fetcher = Fetcher::default();
    let regions = (0..disk.size.div_ceil(REGION_LEN)).map(|region| {
        let (start, end) = (region * REGION_LEN, (region + 1) * REGION_LEN);
        let is_lost = |place: &NodePlace| {
            let bytes = shape.bytes(*place);
            bytes.start < end && start < bytes.end
        };
        let chunks = found.chunks.iter();
        let chunks = chunks.filter(|chunk| (start..end).contains(&chunk.offset));
        let chunks: Vec<ChunkRef> = chunks.copied().collect();
        let mut ignore = |_: u64, _: &[u8]| Ok::<(), RepositoryError>(());
        let fetched = contents.fetch(&chunks, &mut fetcher, &mut ignore);
        fetched.is_ok() && !found.faults.iter().any(is_lost)
    });
    regions.collect()
}
