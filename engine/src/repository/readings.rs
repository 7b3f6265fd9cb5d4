//! When each pack was last read and found whole, and which were found damaged, as this client
//! remembers it.
//!
//! A file in the user's cache folder, and no authority: it tells what to read first and what to
//! store anew, never what is whole. One that is lost, damaged or from a clock that was wrong means
//! that packs are read again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::id::PackId;
use crate::storage::{make_private_folder, replace_file};

/// What the file begins with.
const MAGIC: [u8; 8] = *b"cairn-r1";
/// A pack, and its two times in milliseconds since 1970.
const ENTRY_LEN: usize = KEY_LEN + 8 + 8;
/// As much of a pack's id as tells it from all others of its repository.
const KEY_LEN: usize = 16;
/// Length of the hash at the end.
const HASH_LEN: usize = 32;
/// Most packs that are remembered, the latest: 256 TiB at the default length, in 128 MiB.
const PACKS_MAX: usize = 4 * 1024 * 1024;

type Key = [u8; KEY_LEN];

/// How deeply packs are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Stored bytes are compared with their name.
    Stored,
    /// And decoded, and all that is in them is compared with its id.
    Plain,
}

/// What reading a pack showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// All is as it was.
    Whole,
    /// The pack is whole, and its parity is not.
    BadParity,
    /// It is not what it was: what lies in it may be lost.
    Damaged,
}

/// When one pack was read last and found whole, in milliseconds since 1970; 0 for never. Where both
/// are 0, the pack is damaged, and where both are -1, its parity is: packs that were just never
/// read are not remembered at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Times {
    stored: i64,
    plain: i64,
}

impl Times {
    const DAMAGED: Self = Self {
        stored: 0,
        plain: 0,
    };
    const BAD_PARITY: Self = Self {
        stored: -1,
        plain: -1,
    };

    fn at(self, depth: Depth) -> i64 {
        match depth {
            Depth::Stored => self.stored,
            Depth::Plain => self.plain,
        }
    }
}

/// What is remembered of all packs.
pub(crate) struct Readings {
    file: PathBuf,
    depth: Depth,
    times: HashMap<Key, Times>,
    /// What was learned since.
    learned: HashMap<Key, Times>,
}

impl Readings {
    /// Reads what is remembered. Times after `now` count as never: the clock that gave them was
    /// wrong, or this one is.
    pub(crate) fn load(file: &Path, depth: Depth, now: Timestamp) -> Self {
        Self {
            file: file.to_owned(),
            depth,
            times: read(file, now),
            learned: HashMap::new(),
        }
    }

    fn times(&self, pack: PackId) -> Option<Times> {
        let key = key(pack);
        let times = self.learned.get(&key).or_else(|| self.times.get(&key));
        times.copied()
    }

    /// Returns when a pack was last read as deeply as it is now, and found whole.
    pub(crate) fn last(&self, pack: PackId) -> Option<Timestamp> {
        let time = self.times(pack)?.at(self.depth);
        Timestamp::from_millisecond(time).ok().filter(|_| time > 0)
    }

    /// Returns whether a pack was found damaged when it was read last.
    pub(crate) fn is_damaged(&self, pack: PackId) -> bool {
        self.times(pack) == Some(Times::DAMAGED)
    }

    /// Returns whether a pack or its parity was found damaged when it was read last: it comes first
    /// until all is whole again.
    pub(crate) fn comes_first(&self, pack: PackId) -> bool {
        let times = self.times(pack);
        times.is_some_and(|times| [Times::DAMAGED, Times::BAD_PARITY].contains(&times))
    }

    /// Notes what reading a pack showed. What was decoded was read as stored, too.
    pub(crate) fn note(&mut self, pack: PackId, condition: Condition, now: Timestamp) {
        let now = now.as_millisecond();
        let before = || self.times.get(&key(pack)).map_or(0, |times| times.plain);
        let plain = match self.depth {
            Depth::Plain => now,
            Depth::Stored => before().max(0),
        };
        let times = match condition {
            Condition::Whole => Times { stored: now, plain },
            Condition::BadParity => Times::BAD_PARITY,
            Condition::Damaged => Times::DAMAGED,
        };
        self.learned.insert(key(pack), times);
    }

    /// Writes down what was learned, besides what others wrote meanwhile. Packs that are not among
    /// `packs` any more are left out.
    pub(crate) fn store(&self, packs: &[PackId], now: Timestamp) -> io::Result<()> {
        if self.learned.is_empty() {
            return Ok(());
        }
        let packs: HashSet<Key> = packs.iter().map(|pack| key(*pack)).collect();
        let mut times = read(&self.file, now);
        for (key, learned) in &self.learned {
            let known = times.entry(*key).or_default();
            *known = match *learned {
                mark @ (Times::DAMAGED | Times::BAD_PARITY) => mark,
                Times { stored, plain } => Times {
                    stored: stored.max(known.stored),
                    plain: plain.max(known.plain),
                },
            };
        }
        times.retain(|key, _| packs.contains(key));
        if let Some(folder) = self.file.parent() {
            make_private_folder(folder)?;
        }
        replace_file(&self.file, &encode(times))
    }
}

fn key(pack: PackId) -> Key {
    let (key, _) = pack.as_bytes().split_at(KEY_LEN);
    key.try_into().expect("an id is longer")
}

fn encode(times: HashMap<Key, Times>) -> Vec<u8> {
    let mut times: Vec<(Key, Times)> = times.into_iter().collect();
    times.sort_unstable_by_key(|(key, times)| (-times.stored, *key));
    times.truncate(PACKS_MAX);
    let mut bytes = Vec::with_capacity(MAGIC.len() + times.len() * ENTRY_LEN + HASH_LEN);
    bytes.extend_from_slice(&MAGIC);
    for (key, times) in times {
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(&times.stored.to_le_bytes());
        bytes.extend_from_slice(&times.plain.to_le_bytes());
    }
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// Returns what a file says that is whole, and nothing otherwise.
fn read(file: &Path, now: Timestamp) -> HashMap<Key, Times> {
    let len_max = MAGIC.len() + PACKS_MAX * ENTRY_LEN + HASH_LEN;
    let mut bytes = Vec::new();
    let limit = len_max as u64 + 1;
    let read = File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    match read {
        Ok(len) if len <= len_max => decode(&bytes, now.as_millisecond()).unwrap_or_default(),
        _ => HashMap::new(),
    }
}

fn decode(bytes: &[u8], now: i64) -> Option<HashMap<Key, Times>> {
    let (body, hash) = bytes.split_last_chunk::<HASH_LEN>()?;
    let entries = body.strip_prefix(&MAGIC)?;
    if blake3::hash(body) != *hash || !entries.len().is_multiple_of(ENTRY_LEN) {
        return None;
    }
    let mut times = HashMap::with_capacity(entries.len() / ENTRY_LEN);
    for entry in entries.chunks_exact(ENTRY_LEN) {
        let (key, rest) = entry.split_first_chunk::<KEY_LEN>()?;
        let (stored, rest) = rest.split_first_chunk::<8>()?;
        let (plain, _) = rest.split_first_chunk::<8>()?;
        let past = |bytes: &[u8; 8]| {
            let time = i64::from_le_bytes(*bytes);
            if (1..=now).contains(&time) { time } else { 0 }
        };
        let said = Times {
            stored: i64::from_le_bytes(*stored),
            plain: i64::from_le_bytes(*plain),
        };
        let (stored, plain) = (past(stored), past(plain));
        let read = Times { stored, plain };
        if [Times::DAMAGED, Times::BAD_PARITY].contains(&said) {
            times.insert(*key, said);
        } else if read != Times::DAMAGED {
            times.insert(*key, read);
        }
    }
    Some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is in range")
    }

    fn pack(number: u8) -> PackId {
        PackId::from_bytes([number; 32])
    }

    #[test]
    fn what_was_learned_is_remembered_beside_what_others_learned() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let file = folder.path().join("cache/verified");
        let packs = [pack(1), pack(2), pack(3)];
        let load = |depth, now| Readings::load(&file, depth, at(now));
        let (mut one, mut other) = (load(Depth::Plain, 100), load(Depth::Stored, 100));
        one.note(pack(1), Condition::Whole, at(100));
        one.note(pack(4), Condition::Whole, at(100));
        other.note(pack(1), Condition::Whole, at(110));
        other.note(pack(2), Condition::Whole, at(110));
        one.store(&packs, at(120)).expect("there is space");
        other.store(&packs, at(120)).expect("there is space");

        let (plain, stored) = (load(Depth::Plain, 120), load(Depth::Stored, 120));
        assert_eq!(plain.last(pack(1)), Some(at(100)));
        assert_eq!(stored.last(pack(1)), Some(at(110)));
        assert_eq!(
            (plain.last(pack(2)), stored.last(pack(2))),
            (None, Some(at(110)))
        );
        assert_eq!((plain.last(pack(3)), stored.last(pack(3))), (None, None));
        // It is not in the repository any more.
        assert_eq!(stored.last(pack(4)), None);

        let mut damaged = load(Depth::Stored, 130);
        damaged.note(pack(2), Condition::Damaged, at(130));
        damaged.note(pack(3), Condition::BadParity, at(130));
        assert_eq!(damaged.last(pack(2)), None);
        damaged.store(&packs, at(130)).expect("there is space");
        assert_eq!(load(Depth::Stored, 130).last(pack(2)), None);
        assert_eq!(load(Depth::Stored, 130).last(pack(1)), Some(at(110)));
        let of_all = packs.map(|pack| load(Depth::Plain, 130).is_damaged(pack));
        assert_eq!(of_all, [false, true, false]);
        let of_all = packs.map(|pack| load(Depth::Plain, 130).comes_first(pack));
        assert_eq!(of_all, [false, true, true]);
        let mut mended = load(Depth::Stored, 140);
        assert_eq!(mended.last(pack(3)), None);
        mended.note(pack(3), Condition::Whole, at(140));
        mended.store(&packs, at(140)).expect("there is space");
        assert_eq!(load(Depth::Stored, 140).last(pack(3)), Some(at(140)));
        assert_eq!(load(Depth::Plain, 140).last(pack(3)), None);
        assert!(!load(Depth::Plain, 140).comes_first(pack(3)));
        // The clock was set back.
        assert_eq!(load(Depth::Stored, 105).last(pack(1)), None);
        assert_eq!(load(Depth::Plain, 105).last(pack(1)), Some(at(100)));
        assert_eq!(load(Depth::Plain, 50).last(pack(1)), None);
        assert!(!load(Depth::Plain, 50).is_damaged(pack(1)));
    }

    #[test]
    fn a_damaged_file_remembers_nothing() {
        let times = (1..20).map(|number| {
            let time = i64::from(number);
            let (stored, plain) = (time, time);
            ([number; KEY_LEN], Times { stored, plain })
        });
        let times: HashMap<Key, Times> = times.collect();
        let bytes = encode(times.clone());
        assert_eq!(decode(&bytes, 100), Some(times));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, 100), None, "{at}");
            assert_eq!(decode(&bytes[..at], 100), None, "{at}");
        }
    }
}
