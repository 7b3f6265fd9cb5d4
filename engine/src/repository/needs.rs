//! Which packs a recipe needs, as this client remembers it of those that it made or looked through.
//! While all of these packs are there, so is all that the recipe refers to, and nobody has to look
//! for each of its chunks.
//!
//! One file for each recipe, in the user's cache folder. Packs never change, so what is remembered
//! is true for ever: one pack too many makes somebody look where he need not. A file that is lost
//! or damaged is none.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Contents, Repository, RepositoryError};
use crate::id::{ContentId, NodeId};
use crate::index::PackPrefix;
use crate::storage::{make_private_folder, replace_file};

/// What a file begins with.
const MAGIC: [u8; 8] = *b"cairn-n1";
/// Length of the hash at the end.
const HASH_LEN: usize = 32;
/// Most packs that one recipe is remembered to need: 64 TiB at the default length, in 8 MiB.
const PACKS_MAX: usize = 1024 * 1024;
/// Most recipes that are remembered, the latest: one disk has one that is asked for.
const FILES_MAX: usize = 4096;

/// The packs in which all lies that a recipe refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs(HashSet<PackPrefix>);

impl Needs {
    /// Adds a pack.
    pub(crate) fn insert(&mut self, pack: PackPrefix) {
        self.0.insert(pack);
    }

    /// Adds packs.
    pub(crate) fn extend(&mut self, packs: &Self) {
        self.0.extend(&packs.0);
    }

    fn encode(&self, root: NodeId) -> Vec<u8> {
        let mut packs: Vec<[u8; PackPrefix::LEN]> =
            self.0.iter().map(|pack| pack.to_bytes()).collect();
        packs.sort_unstable();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(root.as_bytes());
        bytes.extend(packs.iter().flatten());
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    /// Returns what a file says of a recipe, if it is whole and about that.
    fn decode(bytes: &[u8], root: NodeId) -> Option<Self> {
        let (body, hash) = bytes.split_last_chunk::<HASH_LEN>()?;
        let packs = body.strip_prefix(&MAGIC)?.strip_prefix(root.as_bytes())?;
        let (packs, rest) = packs.as_chunks::<{ PackPrefix::LEN }>();
        if blake3::hash(body) != *hash || !rest.is_empty() {
            return None;
        }
        let packs = packs.iter().map(|pack| PackPrefix::from_bytes(*pack));
        Some(Self(packs.collect()))
    }
}

/// Where something lies that is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lies {
    /// In this pack, of which nothing bad is known.
    In(PackPrefix),
    /// In packs only that this client knows to be damaged; this is one of them.
    Damaged(PackPrefix),
    /// In no pack that the index knows.
    Nowhere,
}

impl Contents {
    /// Returns whether all of these packs are there, can be read as far as is known, and are known
    /// to the index.
    pub(crate) fn has_all(&self, needs: &Needs) -> bool {
        let unreadable = self.index_report().unreadable.iter();
        let unreadable: HashSet<PackPrefix> =
            unreadable.map(|(pack, _)| PackPrefix::of(*pack)).collect();
        needs.0.iter().all(|pack| {
            let is_listed = self.index().pack(*pack).is_some();
            is_listed && !unreadable.contains(pack) && !self.damaged.contains(pack)
        })
    }

    /// Returns where contents lie that are to be kept. A pack that a collection has condemned
    /// counts, after all others: what is kept was named by a snapshot before.
    pub(crate) fn lie(&self, ids: &[ContentId]) -> Result<Vec<Lies>, RepositoryError> {
        let mut lies = vec![Lies::Nowhere; ids.len()];
        let mut left: Vec<usize> = (0..ids.len()).collect();
        let none = HashSet::new();
        for barred in [&self.condemned, &self.damaged, &none] {
            let wanted: Vec<ContentId> = left.iter().map(|at| ids[*at]).collect();
            if wanted.is_empty() {
                break;
            }
            let mut places = self.index().find_outside(&wanted, barred)?.into_iter();
            left.retain(|at| match places.next().flatten() {
                Some(place) if self.damaged.contains(&place.pack) => {
                    lies[*at] = Lies::Damaged(place.pack);
                    false
                }
                Some(place) => {
                    lies[*at] = Lies::In(place.pack);
                    false
                }
                None => true,
            });
        }
        Ok(lies)
    }
}

impl Repository {
    fn needs_folder(&self) -> PathBuf {
        self.memory_file().with_file_name("needs")
    }

    /// Returns the packs that the recipe with this root needs, if this client remembers them.
    pub(crate) fn needs(&self, root: NodeId) -> Option<Needs> {
        let len_max = MAGIC.len() + NodeId::LEN + PACKS_MAX * PackPrefix::LEN + HASH_LEN;
        let file = File::open(self.needs_folder().join(root.to_hex())).ok()?;
        let mut bytes = Vec::new();
        let read = file.take(len_max as u64 + 1).read_to_end(&mut bytes);
        match read {
            Ok(len) if len <= len_max => Needs::decode(&bytes, root),
            _ => None,
        }
    }

    /// Remembers the packs that a recipe needs. What cannot be remembered is looked up again.
    pub(crate) fn remember_needs(&self, root: NodeId, needs: &Needs) {
        let folder = self.needs_folder();
        if needs.0.len() <= PACKS_MAX && make_private_folder(&folder).is_ok() {
            drop(replace_file(
                &folder.join(root.to_hex()),
                &needs.encode(root),
            ));
            forget_oldest(&folder);
        }
    }
}

/// Removes the files that were written longest ago, where there are too many.
fn forget_oldest(folder: &Path) {
    let files = || fs::read_dir(folder).into_iter().flatten().flatten();
    let count = files().count();
    if count <= FILES_MAX {
        return;
    }
    let written = |file: &fs::DirEntry| file.metadata().and_then(|it| it.modified()).ok();
    let mut files: Vec<(Option<SystemTime>, PathBuf)> =
        files().map(|file| (written(&file), file.path())).collect();
    files.sort();
    for (_, file) in files.iter().take(count - FILES_MAX / 2) {
        drop(fs::remove_file(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_tells_nothing() {
        let root = NodeId::from_bytes([7; 32]);
        let packs = (1..20).map(|number| PackPrefix::from_bytes([number; 8]));
        let needs = Needs(packs.collect());
        let bytes = needs.encode(root);
        assert_eq!(Needs::decode(&bytes, root), Some(needs));
        assert_eq!(Needs::decode(&bytes, NodeId::from_bytes([8; 32])), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Needs::decode(&damaged, root), None, "{at}");
            assert_eq!(Needs::decode(&bytes[..at], root), None, "{at}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        for number in 0..=FILES_MAX {
            fs::write(folder.path().join(number.to_string()), b"").expect("there is space");
        }
        forget_oldest(folder.path());
        let left = fs::read_dir(folder.path()).expect("it is there").count();
        assert_eq!(left, FILES_MAX / 2);
    }
}
