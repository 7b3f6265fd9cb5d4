//! A repository's objects in memory, where any bit of them can be changed, any byte be made
//! unreadable, and every read is noted.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use cairn_engine::id::SessionId;
use cairn_engine::storage::{
    Area, CollectionLock, Existing, Listed, Name, SeenSession, Session, SharedStorage, Storage,
    StorageError, Upload,
};

const AREAS: [Area; 5] = [
    Area::Packs,
    Area::Parity,
    Area::Snapshots,
    Area::Notes,
    Area::Keys,
];

/// Packs with their bytes.
pub type Packs = Vec<(Name, Vec<u8>)>;

/// When packs move, as a collection moves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After packs were listed.
    AfterList,
    /// While they are listed: too late for the new ones to be seen, too early for the old.
    DuringList,
    /// Before a pack is read, when that has happened so many times more.
    BeforeRead(usize),
}

/// Objects as a storage that is only read; sessions are those of the storage behind.
pub struct Objects {
    behind: SharedStorage,
    objects: Mutex<BTreeMap<Name, Vec<u8>>>,
    broken: Mutex<Vec<(Name, Range<u64>, i32)>>,
    reads: Mutex<Vec<(Name, u64)>>,
    lists: Mutex<usize>,
    moves: Mutex<VecDeque<(Moment, Packs)>>,
    /// Why nobody can write, as a number of the system's.
    unwritable: Mutex<Option<i32>>,
}

impl Objects {
    /// Reads all objects into memory.
    pub fn load(behind: SharedStorage) -> Arc<Self> {
        let mut names = vec![Name::Config];
        for area in AREAS {
            let listed = behind.list(area).expect("the area can be listed");
            names.extend(listed.into_iter().map(|listed| listed.name));
        }
        let read = |name: Name| {
            let bytes = behind.read(&name, 1 << 30).expect("the object can be read");
            (name, bytes)
        };
        let objects = Mutex::new(names.into_iter().map(read).collect());
        Arc::new(Self {
            behind,
            objects,
            broken: Mutex::default(),
            reads: Mutex::default(),
            lists: Mutex::default(),
            moves: Mutex::default(),
            unwritable: Mutex::default(),
        })
    }

    /// Makes reads that touch a range of an object fail with a number of the system's.
    pub fn break_range(&self, name: Name, range: Range<u64>, errno: i32) {
        let mut broken = self.broken.lock().expect("no thread panicked");
        broken.push((name, range, errno));
    }

    /// Lets nobody write from now on, for a reason that is a number of the system's.
    pub fn refuse_writes(&self, errno: i32) {
        *self.unwritable.lock().expect("no thread panicked") = Some(errno);
    }

    /// Makes everything readable again.
    pub fn heal(&self) {
        self.broken.lock().expect("no thread panicked").clear();
    }

    /// Returns the reads of ranges since it was asked last: of which object, and from where.
    pub fn take_reads(&self) -> Vec<(Name, u64)> {
        std::mem::take(&mut *self.reads.lock().expect("no thread panicked"))
    }

    /// Returns how often packs were listed since it was asked last.
    pub fn take_lists(&self) -> usize {
        std::mem::take(&mut *self.lists.lock().expect("no thread panicked"))
    }

    fn note(&self, name: &Name, offset: u64, len: usize) -> Result<(), StorageError> {
        let mut reads = self.reads.lock().expect("no thread panicked");
        reads.push((*name, offset));
        let end = offset + len as u64;
        let broken = self.broken.lock().expect("no thread panicked");
        let hit = broken
            .iter()
            .find(|(at, range, _)| at == name && range.start < end && offset < range.end);
        hit.map_or(Ok(()), |(_, _, errno)| {
            Err(StorageError::Io {
                op: "read",
                object: name.path(),
                source: io::Error::from_raw_os_error(*errno),
            })
        })
    }

    /// Returns all objects.
    pub fn all(&self) -> BTreeMap<Name, Vec<u8>> {
        self.objects.lock().expect("no thread panicked").clone()
    }

    /// Flips bits of one byte of an object.
    pub fn flip(&self, name: &Name, at: usize, mask: u8) {
        let mut objects = self.objects.lock().expect("no thread panicked");
        objects.get_mut(name).expect("the object is there")[at] ^= mask;
    }

    /// Lets all packs be replaced by others at a moment, after all moves that were said before.
    pub fn move_packs(&self, when: Moment, packs: Packs) {
        let mut moves = self.moves.lock().expect("no thread panicked");
        moves.push_back((when, packs));
    }

    /// Returns how many moves are yet to come.
    pub fn moves_left(&self) -> usize {
        self.moves.lock().expect("no thread panicked").len()
    }

    /// Calls off the moves that are yet to come.
    pub fn clear_moves(&self) {
        self.moves.lock().expect("no thread panicked").clear();
    }

    /// Makes the next move, if its moment has come. Returns when that was.
    fn step(&self, is_now: impl Fn(&mut Moment) -> bool) -> Option<Moment> {
        let mut moves = self.moves.lock().expect("no thread panicked");
        let (when, _) = moves.front_mut()?;
        if !is_now(when) {
            return None;
        }
        let (when, packs) = moves.pop_front()?;
        let mut objects = self.objects.lock().expect("no thread panicked");
        objects.retain(|name, _| !matches!(name, Name::Pack(_)));
        objects.extend(packs);
        Some(when)
    }

    /// Replaces an object, or takes it away.
    pub fn set(&self, name: Name, bytes: Option<Vec<u8>>) {
        let mut objects = self.objects.lock().expect("no thread panicked");
        match bytes {
            Some(bytes) => drop(objects.insert(name, bytes)),
            None => drop(objects.remove(&name)),
        }
    }

    fn with<T>(
        &self,
        name: &Name,
        see: impl FnOnce(&[u8]) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let objects = self.objects.lock().expect("no thread panicked");
        see(objects.get(name).ok_or(StorageError::NotFound(*name))?)
    }
}

impl Storage for Objects {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn read(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StorageError> {
        self.with(name, |bytes| {
            let len = bytes.len() as u64;
            match len > limit {
                true => Err(StorageError::TooLong {
                    name: *name,
                    len,
                    limit,
                }),
                false => Ok(bytes.to_vec()),
            }
        })
    }

    fn read_at(&self, name: &Name, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.note(name, offset, buf.len())?;
        if let Name::Pack(_) = name {
            self.step(|when| match when {
                Moment::BeforeRead(0) => true,
                Moment::BeforeRead(left) => {
                    *left -= 1;
                    false
                }
                Moment::AfterList | Moment::DuringList => false,
            });
        }
        self.with(name, |bytes| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(buf.len());
            let short = StorageError::ShortRead {
                name: *name,
                end: end as u64,
            };
            buf.copy_from_slice(bytes.get(start..end).ok_or(short)?);
            Ok(())
        })
    }

    fn len(&self, name: &Name) -> Result<u64, StorageError> {
        self.with(name, |bytes| Ok(bytes.len() as u64))
    }

    fn list(&self, area: Area) -> Result<Vec<Listed>, StorageError> {
        if area == Area::Packs {
            *self.lists.lock().expect("no thread panicked") += 1;
        }
        let belongs = |name: &Name| match name {
            Name::Pack(_) => area == Area::Packs,
            Name::Parity(_) => area == Area::Parity,
            Name::Snapshot(_) => area == Area::Snapshots,
            Name::Note(..) => area == Area::Notes,
            Name::Key(_) => area == Area::Keys,
            _ => false,
        };
        let listed = self.all().into_iter();
        let listed = listed.filter(|(name, _)| belongs(name));
        let mut listed: Vec<Listed> = listed
            .map(|(name, bytes)| Listed {
                name,
                len: bytes.len() as u64,
            })
            .collect();
        if area == Area::Packs
            && self.step(|when| !matches!(when, Moment::BeforeRead(_))) == Some(Moment::DuringList)
        {
            listed.clear();
        }
        Ok(listed)
    }

    fn put(
        &self,
        session: SessionId,
        name: &Name,
        bytes: &[u8],
        existing: Existing,
    ) -> Result<(), StorageError> {
        self.behind.put(session, name, bytes, existing)
    }

    fn upload(&self, session: SessionId) -> Result<Box<dyn Upload>, StorageError> {
        self.behind.upload(session)
    }

    fn settle(&self, _: &Name) -> Result<(), StorageError> {
        Ok(())
    }

    fn delete(&self, name: &Name) -> Result<(), StorageError> {
        self.set(*name, None);
        Ok(())
    }

    fn set_aside(&self, name: &Name) -> Result<(), StorageError> {
        self.set(*name, None);
        Ok(())
    }

    fn keep_aside(&self, _: SessionId, _: &Name) -> Result<(), StorageError> {
        Ok(())
    }

    fn open_session(&self, document: &[u8]) -> Result<Box<dyn Session>, StorageError> {
        match *self.unwritable.lock().expect("no thread panicked") {
            None => self.behind.open_session(document),
            Some(errno) => Err(StorageError::Unwritable {
                location: self.location(),
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    }

    fn sessions(&self) -> Result<Vec<SeenSession>, StorageError> {
        self.behind.sessions()
    }

    fn lock_collection(&self) -> Result<CollectionLock, StorageError> {
        self.behind.lock_collection()
    }

    fn keep_reserve(&self) -> Result<(), StorageError> {
        self.behind.keep_reserve()
    }

    fn release_reserve(&self) -> Result<bool, StorageError> {
        self.behind.release_reserve()
    }

    fn clear_dead_sessions(&self) -> Result<usize, StorageError> {
        self.behind.clear_dead_sessions()
    }
}
