//! What a repository's packs hold, opened for one session.
//!
//! Opening follows the order that `docs/concurrency.md` argues: session first, then the plan of a
//! collection, then the list of packs, then the index. Packs that are not listed count as absent.
//! What is condemned can be read, but for writers nothing new may be built on it.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;

use super::hot::HotPacks;
use super::presence::Presence;
use super::{Depth, Readings, Repository, RepositoryError, Unseen};
use crate::cache::Cache;
use crate::format::recipe::{EMPTY_LEAF, Node};
use crate::id::{ContentId, NodeId, PackId, SessionId, SnapshotId};
use crate::index::{Index, IndexError, IndexOptions, OpenReport, PackFooters, PackPrefix, Place};
use crate::limits::MIB;
use crate::pack::{FooterCache, PackError, PackReader, places_in, read_footer};
use crate::recipe::{NodeError, NodeStore};
use crate::storage::{Area, Name, StorageError};

/// Memory for footers that were read lately.
const FOOTERS_BYTES_MAX: usize = 24 * MIB as usize;
/// Memory for decoded frames that are used again.
const FRAMES_BYTES_MAX: usize = 32 * MIB as usize;
/// Memory for decoded recipe nodes.
const NODES_BYTES_MAX: usize = 16 * MIB as usize;

/// What a session is opened for.
#[derive(Debug, Clone)]
pub enum Access {
    /// Reads the snapshots named: a collection treats them as roots. Where nothing can be written,
    /// it is read all the same, unseen by others.
    Read(Vec<SnapshotId>),
    /// Reads for whoever moves or deletes what is stored.
    Upkeep,
    /// Writes: a collection waits for it.
    Write,
}

/// The packs of a repository as one session sees them, with the index and the caches over them.
pub struct Contents {
    repository: Arc<Repository>,
    /// Packs on which nothing may be built: as the plan of a collection had it at opening. What a
    /// later plan condemns stays as long as this session does.
    pub(super) condemned: HashSet<PackPrefix>,
    /// Packs that this client knows to be damaged: for a writer among the condemned.
    pub(super) damaged: HashSet<PackPrefix>,
    /// Listed at opening, and again where something was not to be found.
    packs: RwLock<Arc<[PackId]>>,
    index: Index,
    report: OpenReport<PackError>,
    pub(super) footers: FooterCache,
    pub(super) frames: Cache<(PackId, u32), Arc<Vec<u8>>>,
    nodes: Cache<NodeId, Arc<Node>>,
    hot: HotPacks,
    empty_leaf: NodeId,
    /// What was to be pinned.
    pins: Vec<SnapshotId>,
    /// Dropped last: the index keeps private files in the session's folder.
    presence: Presence,
}

impl Contents {
    /// Opens a session and what it may see.
    ///
    /// `command` is what others are told of this process.
    pub fn open(
        repository: &Arc<Repository>,
        access: Access,
        command: &str,
    ) -> Result<Self, RepositoryError> {
        let presence = Presence::open(repository, &access, command)?;
        let condemned: HashSet<PackPrefix> = match &access {
            Access::Write => repository
                .condemned()?
                .into_iter()
                .map(PackPrefix::of)
                .collect(),
            Access::Read(_) | Access::Upkeep => HashSet::new(),
        };
        let packs = list_packs(repository)?;
        if let Access::Read(pins) = &access {
            repository.check_not_taken(pins)?;
            repository.check_present(pins)?;
        }
        let damaged = match &access {
            Access::Write => known_damage(repository, &packs),
            Access::Read(_) | Access::Upkeep => HashSet::new(),
        };
        let options = index_options(repository, &presence);
        let footers = FooterSource::for_index(repository, &options);
        let (index, mut report) = Index::open(options, &packs, &footers)?;
        // A failed fsync ends all publishing. A writer that went on would take the packs that it
        // could not settle for damaged ones, and fail for a reason that is not the true one.
        let unsettled = report
            .unreadable
            .iter()
            .position(|(_, error)| is_unsettled(error));
        if let (Access::Write, Some(at)) = (&access, unsettled) {
            return Err(report.unreadable.swap_remove(at).1.into());
        }
        Ok(Self {
            repository: Arc::clone(repository),
            // What is damaged is stored anew by whoever sees it again.
            condemned: &condemned | &damaged,
            damaged,
            packs: RwLock::new(packs.into()),
            index,
            report,
            footers: FooterCache::new(
                repository.storage().clone(),
                Arc::clone(repository.keys()),
                FOOTERS_BYTES_MAX,
            ),
            frames: Cache::new(FRAMES_BYTES_MAX),
            nodes: Cache::new(NODES_BYTES_MAX),
            hot: HotPacks::default(),
            empty_leaf: repository.keys().node_id(&EMPTY_LEAF),
            pins: match access {
                Access::Read(pins) => pins,
                Access::Upkeep | Access::Write => Vec::new(),
            },
            presence,
        })
    }

    /// Returns the repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Returns the session's id.
    pub fn session(&self) -> SessionId {
        self.presence.id()
    }

    /// Returns why others cannot see that this process reads, if they cannot.
    pub fn why_unseen(&self) -> Option<Unseen> {
        self.presence.why_unseen()
    }

    /// Returns what is wrong where content is not to be had: nobody minded a reader without a
    /// session, and what it reads may have been forgotten and taken. That is no damage.
    pub(crate) fn verdict(&self, error: RepositoryError) -> RepositoryError {
        let gone = match self.why_unseen() {
            Some(_) if error.is_damage() => self.repository.check_present(&self.pins).err(),
            _ => None,
        };
        gone.unwrap_or(error)
    }

    /// Returns the index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Rids the index on disk of what is about packs that are gone, where that is much.
    pub(crate) fn compact_index(&self) -> Result<(), RepositoryError> {
        let repository = &self.repository;
        let options = IndexOptions {
            compacts: true,
            ..index_options(repository, &self.presence)
        };
        let footers = FooterSource::for_index(repository, &options);
        Index::open(options, &list_packs(repository)?, &footers)?;
        Ok(())
    }

    /// Returns the folder for the session's private files.
    pub(crate) fn temp_folder(&self) -> PathBuf {
        self.presence.temp().to_owned()
    }

    /// Returns what opening the index met: packs taken in, dropped, and unreadable ones.
    pub fn index_report(&self) -> &OpenReport<PackError> {
        &self.report
    }

    /// Returns the packs that this session sees: as listed last, which was at opening or when
    /// something was not to be found.
    pub fn packs(&self) -> Arc<[PackId]> {
        let held = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held)
    }

    pub(super) fn set_packs(&self, packs: Vec<PackId>) {
        let mut held = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        *held = packs.into();
    }

    /// Returns a pack's checked footer.
    pub fn footer(&self, pack: PackId) -> Result<Arc<PackReader>, PackError> {
        self.footers.get(pack)
    }

    /// Throws the index of a repository away. Returns whether that was done: not while another
    /// process is adding to it.
    pub(crate) fn discard_index(repository: &Repository) -> Result<bool, RepositoryError> {
        let session = repository.open_writer("repair")?;
        let temp = repository.temp_folder(session.id())?;
        let id = repository.config().repository_id;
        let options = IndexOptions::new(repository.index_folder().to_owned(), temp, id);
        Ok(Index::discard(options)?)
    }

    /// Returns where contents are, by the index and what was read of the packs; `None` where
    /// neither knows any place.
    pub fn locate(&self, ids: &[ContentId]) -> Result<Vec<Option<Place>>, RepositoryError> {
        self.locate_in(ids, |missing| self.index.find(missing))
    }

    /// Returns the same, but in no pack that a collection has condemned: what lies only there has
    /// to be stored anew.
    pub(super) fn locate_to_build_on(
        &self,
        ids: &[ContentId],
    ) -> Result<Vec<Option<Place>>, RepositoryError> {
        self.locate_in(ids, |missing| {
            self.index.find_outside(missing, &self.condemned)
        })
    }

    fn locate_in(
        &self,
        ids: &[ContentId],
        find: impl Fn(&[ContentId]) -> Result<Vec<Option<Place>>, IndexError>,
    ) -> Result<Vec<Option<Place>>, RepositoryError> {
        let mut places = self.hot.find(ids);
        let missing = ids.iter().zip(&places).filter(|(_, place)| place.is_none());
        let missing: Vec<ContentId> = missing.map(|(id, _)| *id).collect();
        if missing.is_empty() {
            return Ok(places);
        }
        let found = find(&missing)?;
        // What may not be built on stays out of the tables that everybody asks.
        let hits = found.iter().flatten();
        let hits = hits.filter(|place| !self.condemned.contains(&place.pack));
        let hits = hits.filter_map(|place| self.index.pack(place.pack));
        for pack in self.hot.wanted(hits) {
            // A footer that cannot be read makes nothing faster; whoever needs it says so.
            if let Ok(reader) = self.footers.get(pack) {
                self.hot.add(&reader);
            }
        }
        let unknown = places.iter_mut().filter(|place| place.is_none());
        for (place, found) in unknown.zip(found) {
            *place = found;
        }
        Ok(places)
    }

    /// Returns where contents are, by the index alone; `None` where it knows no place.
    pub(crate) fn places(
        &self,
        ids: &[ContentId],
    ) -> Result<Vec<Option<(PackId, Place)>>, RepositoryError> {
        let places = self.index.find(ids)?.into_iter();
        let places =
            places.map(|place| place.and_then(|place| Some((self.index.pack(place.pack)?, place))));
        Ok(places.collect())
    }

    /// Returns a recipe node, checked against its id.
    fn checked_node(&self, id: NodeId) -> Result<Arc<Node>, RepositoryError> {
        if let Some(node) = self.nodes.get(&id) {
            return Ok(node);
        }
        let bytes = self.content(id.into(), |bytes| {
            self.repository.keys().node_id(bytes).into()
        });
        let bytes = bytes.and_then(|bytes| bytes.ok_or(RepositoryError::MissingNode(id)));
        self.decoded(id, &bytes.map_err(|error| self.verdict(error))?)
    }

    /// Returns the recipe node at a place, checked against its id.
    pub(crate) fn node_at(
        &self,
        id: NodeId,
        pack: PackId,
        place: &Place,
    ) -> Result<Arc<Node>, RepositoryError> {
        if let Some(node) = self.nodes.get(&id) {
            return Ok(node);
        }
        let hash = |bytes: &[u8]| self.repository.keys().node_id(bytes).into();
        let bytes = self.content_at(pack, place, id.into(), &hash)?;
        self.decoded(id, &bytes.ok_or(RepositoryError::MissingNode(id))?)
    }

    fn decoded(&self, id: NodeId, bytes: &[u8]) -> Result<Arc<Node>, RepositoryError> {
        let node = Node::decode(bytes, self.repository.chunker().window_len())
            .map_err(|source| RepositoryError::DamagedNode { node: id, source })?;
        let node = Arc::new(node);
        self.nodes.insert(id, Arc::clone(&node), 64 + bytes.len());
        Ok(node)
    }

    /// Returns one piece of content whose hash is right, from whichever pack has it whole; `None`
    /// where none has it.
    fn content(
        &self,
        id: ContentId,
        hash: impl Fn(&[u8]) -> ContentId,
    ) -> Result<Option<Vec<u8>>, RepositoryError> {
        let mut failure = None;
        if let Some((pack, place)) = self.places(&[id])?.into_iter().flatten().next() {
            match self.content_at(pack, &place, id, &hash) {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        let mut copies = self.copies(&HashSet::from([id]))?;
        self.whole_copy(id, &mut copies, &mut failure, hash)
    }

    /// Returns the content at a place, if the place really holds it.
    pub(crate) fn content_at(
        &self,
        pack: PackId,
        place: &Place,
        id: ContentId,
        hash: &impl Fn(&[u8]) -> ContentId,
    ) -> Result<Option<Vec<u8>>, PackError> {
        let reader = self.footers.get(pack)?;
        let Some(range) = reader.slot_range(place, id) else {
            return Ok(None);
        };
        let frame = u32::from(place.frame);
        let plain = self.frame(&reader, frame)?;
        let bytes = plain.get(range).unwrap_or_default();
        if hash(bytes) != id {
            return Err(PackError::DamagedContent {
                pack,
                frame,
                content: id,
            });
        }
        Ok(Some(bytes.to_vec()))
    }

    /// Returns a decoded frame, through the cache.
    fn frame(&self, reader: &PackReader, frame: u32) -> Result<Arc<Vec<u8>>, PackError> {
        let key = (reader.id(), frame);
        if let Some(plain) = self.frames.get(&key) {
            return Ok(plain);
        }
        let mut plain = Vec::new();
        let mut decompressor = crate::compress::Decompressor::new();
        let storage = self.repository.storage();
        reader.read_frame(
            storage,
            frame,
            &mut decompressor,
            &mut Vec::new(),
            &mut plain,
        )?;
        let plain = Arc::new(plain);
        self.frames.insert(key, Arc::clone(&plain), plain.len());
        Ok(plain)
    }
}

impl NodeStore for Contents {
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        self.checked_node(id).map_err(|error| match error {
            RepositoryError::MissingNode(_) => NodeError::Missing,
            RepositoryError::Pack(error) if error.is_loss() => NodeError::Damaged {
                source: error.into(),
            },
            error if error.is_damage() => NodeError::Damaged {
                source: error.into(),
            },
            error => NodeError::Failed {
                source: error.into(),
            },
        })
    }

    fn empty_leaf(&self) -> NodeId {
        self.empty_leaf
    }
}

/// Returns the packs that this client found damaged when it read them last.
fn known_damage(repository: &Repository, packs: &[PackId]) -> HashSet<PackPrefix> {
    let file = repository.readings_file();
    let readings = Readings::load(&file, Depth::Plain, Timestamp::MAX);
    let damaged = packs.iter().filter(|pack| readings.is_damaged(**pack));
    damaged.copied().map(PackPrefix::of).collect()
}

/// Returns how the index is opened. Who may not write inside a repository leaves the index alone
/// that lies there, and where a file system is read-only nobody can tell what is durable.
fn index_options(repository: &Repository, presence: &Presence) -> IndexOptions {
    let (folder, temp) = (repository.index_folder(), presence.temp());
    let id = repository.config().repository_id;
    IndexOptions {
        writable: match presence.why_unseen() {
            None => true,
            Some(Unseen::Denied) => !repository.is_index_inside(),
            Some(Unseen::ReadOnly) => false,
        },
        ..IndexOptions::new(folder.to_owned(), temp.to_owned(), id)
    }
}

/// Lists the packs.
pub(super) fn list_packs(repository: &Repository) -> Result<Vec<PackId>, RepositoryError> {
    let listed = repository.storage().list(Area::Packs)?.into_iter();
    let packs = listed.filter_map(|listed| match listed.name {
        Name::Pack(id) => Some(id),
        _ => None,
    });
    Ok(packs.collect())
}

/// Returns whether a pack could not be made sure against a power cut, as against not be read.
fn is_unsettled(error: &PackError) -> bool {
    match error {
        PackError::Storage(StorageError::Io { op, source, .. }) => {
            // A collection may take a folder's packs away, which a writer can bear.
            *op == "fsync" && source.kind() != ErrorKind::NotFound
        }
        PackError::Storage(error) => matches!(
            error,
            StorageError::NoSpace { .. } | StorageError::PreviousFailure { .. }
        ),
        _ => false,
    }
}

/// Lets the index read footers of packs.
pub(super) struct FooterSource<'a> {
    repository: &'a Repository,
    settles: bool,
}

impl<'a> FooterSource<'a> {
    /// For what the index is to know of packs that it does not know. What is kept for others is
    /// made durable first; what is not is only looked at.
    pub(super) fn for_index(repository: &'a Repository, options: &IndexOptions) -> Self {
        Self {
            repository,
            settles: options.writable,
        }
    }

    /// For a search, which nothing is built on.
    pub(super) fn to_look(repository: &'a Repository) -> Self {
        Self {
            repository,
            settles: false,
        }
    }
}

impl PackFooters for FooterSource<'_> {
    type Error = PackError;

    fn places(&self, pack: PackId) -> Result<Vec<(ContentId, Place)>, PackError> {
        let storage = self.repository.storage();
        if self.settles {
            // Another process may have published it and crashed before its folder was durable.
            storage.settle(&Name::Pack(pack))?;
        }
        let reader = read_footer(storage, self.repository.keys(), pack)?;
        Ok(places_in(pack, reader.footer()).collect())
    }
}
