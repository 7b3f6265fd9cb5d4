//! What a simulated disk holds: as processes see it, and as it would be after a power cut.
//!
//! A file has bytes that were fsynced and bytes that were not. A folder has the entries of its last
//! fsync and the changes since. Nothing else is ever durable: fsync of a file says nothing about
//! its name, fsync of a folder nothing about the folder's own name, and changes in different
//! folders, or to different names in one, have no order between them. That is worse than ext4, XFS
//! or btrfs, and as bad as POSIX allows, with one exception: changes to one name in one folder
//! happen in their order, and a rename that replaces leaves the old file or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use rustix::io::Errno;

use super::random::Random;
use crate::storage::fs::{Entry, EntryKind, RenameMode};

/// The number of a file or folder.
pub(super) type Inode = u64;

const ROOT: Inode = 0;
/// What a disk writes as a whole.
const BLOCK: usize = 4096;

/// One change of a disk, so that it can be made again.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Create {
        path: String,
    },
    Append {
        file: Inode,
        bytes: Vec<u8>,
    },
    SyncFile {
        file: Inode,
    },
    /// A failed fsync: the bytes stay in the page cache, clean, and never reach the disk.
    LoseFile {
        file: Inode,
    },
    SyncFolder {
        folder: Inode,
    },
    /// A failed fsync: later ones do not know of these changes any more.
    LoseFolder {
        folder: Inode,
    },
    Rename {
        from: String,
        to: String,
        mode: RenameMode,
    },
    Link {
        from: String,
        to: String,
    },
    MakeFolder {
        path: String,
    },
    RemoveFile {
        path: String,
    },
    RemoveFolder {
        path: String,
    },
    /// What failed, or was pretended, and changed nothing.
    Nothing {
        what: &'static str,
    },
}

#[derive(Debug, Clone, Default)]
struct File {
    data: Vec<u8>,
    /// How many of them are on the disk, `lost` excepted.
    synced: usize,
    /// What a failed fsync has lost.
    lost: Vec<Range<usize>>,
}

#[derive(Debug, Clone, Default)]
struct Folder {
    entries: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    /// Changes since the last fsync: a name, and what it names then.
    pending: Vec<(String, Option<Inode>)>,
    /// Changes that a failed fsync has lost.
    lost: Vec<(String, Option<Inode>)>,
}

impl Folder {
    fn change(&mut self, name: &str, inode: Option<Inode>) {
        match inode {
            Some(inode) => self.entries.insert(name.to_owned(), inode),
            None => self.entries.remove(name),
        };
        self.pending.push((name.to_owned(), inode));
    }

    fn sync(&mut self) {
        for (name, inode) in self.pending.drain(..) {
            match inode {
                Some(inode) => self.durable.insert(name, inode),
                None => self.durable.remove(&name),
            };
        }
    }
}

/// How much of what was not fsynced a power cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Nothing.
    Least,
    /// Every name, and none of the bytes: what a rename before the fsync leaves.
    Names,
    /// Everything: a process's death, in effect.
    Most,
    /// Each change or not, each block or not.
    Any,
}

/// A simulated disk.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    files: BTreeMap<Inode, File>,
    folders: BTreeMap<Inode, Folder>,
    next: Inode,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            folders: BTreeMap::from([(ROOT, Folder::default())]),
            next: ROOT + 1,
        }
    }

    /// Makes a change. An operation that fails changes nothing.
    pub(super) fn apply(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::Create { path } => {
                let inode = self.new_entry(path)?;
                self.files.insert(inode, File::default());
            }
            Op::MakeFolder { path } => {
                let inode = self.new_entry(path)?;
                self.folders.insert(inode, Folder::default());
            }
            Op::Append { file, bytes } => self.file_mut(*file)?.data.extend_from_slice(bytes),
            Op::SyncFile { file } => {
                let file = self.file_mut(*file)?;
                file.synced = file.data.len();
            }
            Op::LoseFile { file } => {
                let file = self.file_mut(*file)?;
                file.lost.push(file.synced..file.data.len());
                file.synced = file.data.len();
            }
            Op::SyncFolder { folder } => self.folder_mut(*folder)?.sync(),
            Op::LoseFolder { folder } => {
                let folder = self.folder_mut(*folder)?;
                let pending = std::mem::take(&mut folder.pending);
                folder.lost.extend(pending);
            }
            Op::Rename { from, to, mode } => self.rename(from, to, *mode)?,
            Op::Link { from, to } => {
                let inode = self.resolve(from)?;
                self.data(inode)?;
                let (folder, name) = self.place(to)?;
                let folder = self.folder_mut(folder)?;
                if folder.entries.contains_key(&name) {
                    return Err(Errno::EXIST.into());
                }
                folder.change(&name, Some(inode));
            }
            Op::RemoveFile { path } => {
                let inode = self.resolve(path)?;
                if self.folders.contains_key(&inode) {
                    return Err(Errno::ISDIR.into());
                }
                self.unlink(path)?;
            }
            Op::RemoveFolder { path } => {
                let folder = self
                    .folders
                    .get(&self.resolve(path)?)
                    .ok_or(Errno::NOTDIR)?;
                if !folder.entries.is_empty() {
                    return Err(Errno::NOTEMPTY.into());
                }
                self.unlink(path)?;
            }
            Op::Nothing { .. } => {}
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str, mode: RenameMode) -> io::Result<()> {
        let inode = self.resolve(from)?;
        match self.resolve(to) {
            // As POSIX has it: both names stay.
            Ok(same) if same == inode && mode == RenameMode::Replace => return Ok(()),
            Ok(_) if mode == RenameMode::NoReplace => return Err(Errno::EXIST.into()),
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let (folder, name) = self.place(to)?;
        self.folder_mut(folder)?.change(&name, Some(inode));
        self.unlink(from)
    }

    fn new_entry(&mut self, path: &str) -> io::Result<Inode> {
        let (folder, name) = self.place(path)?;
        let inode = self.next;
        let folder = self.folder_mut(folder)?;
        if folder.entries.contains_key(&name) {
            return Err(Errno::EXIST.into());
        }
        folder.change(&name, Some(inode));
        self.next += 1;
        Ok(inode)
    }

    fn unlink(&mut self, path: &str) -> io::Result<()> {
        let (folder, name) = self.place(path)?;
        self.folder_mut(folder)?.change(&name, None);
        Ok(())
    }

    /// Returns the folder that a path stands in, and its name there.
    fn place(&self, path: &str) -> io::Result<(Inode, String)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.resolve(folder)?, name.to_owned()))
    }

    /// Returns what a path names.
    pub(super) fn resolve(&self, path: &str) -> io::Result<Inode> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(ROOT, |at, part| {
                let folder = self.folders.get(&at).ok_or(Errno::NOTDIR)?;
                Ok(*folder.entries.get(part).ok_or(Errno::NOENT)?)
            })
    }

    pub(super) fn data(&self, file: Inode) -> io::Result<&[u8]> {
        Ok(&self.files.get(&file).ok_or(Errno::ISDIR)?.data)
    }

    pub(super) fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let folder = self
            .folders
            .get(&self.resolve(path)?)
            .ok_or(Errno::NOTDIR)?;
        Ok(folder
            .entries
            .iter()
            .map(|(name, inode)| {
                let file = self.files.get(inode);
                Entry {
                    name: name.clone(),
                    kind: if file.is_some() {
                        EntryKind::File
                    } else {
                        EntryKind::Folder
                    },
                    len: file.map_or(0, |file| file.data.len() as u64),
                }
            })
            .collect())
    }

    fn file_mut(&mut self, inode: Inode) -> io::Result<&mut File> {
        Ok(self.files.get_mut(&inode).ok_or(Errno::ISDIR)?)
    }

    fn folder_mut(&mut self, inode: Inode) -> io::Result<&mut Folder> {
        Ok(self.folders.get_mut(&inode).ok_or(Errno::NOTDIR)?)
    }

    /// Returns what a power cut leaves, all of it durable.
    pub(super) fn power_cut(&self, random: &mut Random) -> Self {
        let cut = match random.below(4) {
            0 => Cut::Least,
            1 => Cut::Names,
            2 => Cut::Most,
            _ => Cut::Any,
        };
        let mut left = Self {
            files: BTreeMap::new(),
            folders: BTreeMap::new(),
            next: self.next,
        };
        let mut reached = vec![ROOT];
        let mut seen = BTreeSet::new();
        while let Some(inode) = reached.pop() {
            if !seen.insert(inode) {
                continue;
            }
            if let Some(file) = self.files.get(&inode) {
                let data = file.after(cut, random);
                left.files.insert(
                    inode,
                    File {
                        synced: data.len(),
                        data,
                        lost: Vec::new(),
                    },
                );
            } else if let Some(folder) = self.folders.get(&inode) {
                let entries = folder.after(cut, random);
                reached.extend(entries.values());
                let durable = entries.clone();
                left.folders.insert(
                    inode,
                    Folder {
                        entries,
                        durable,
                        ..Folder::default()
                    },
                );
            }
        }
        left
    }
}

impl Folder {
    fn after(&self, cut: Cut, random: &mut Random) -> BTreeMap<String, Inode> {
        let mut entries = self.durable.clone();
        let mut open: BTreeMap<&str, Vec<Option<Inode>>> = BTreeMap::new();
        for (name, inode) in &self.pending {
            open.entry(name).or_default().push(*inode);
        }
        // Changes lost by a failed fsync did not happen, whatever the seed: a disk that kept them
        // would be the easy case, which every other crash covers.
        for (name, changes) in open {
            let happened = match cut {
                Cut::Least => 0,
                Cut::Names | Cut::Most => changes.len(),
                Cut::Any => random.below(changes.len() + 1),
            };
            match happened.checked_sub(1).map(|last| changes[last]) {
                None => {}
                Some(Some(inode)) => _ = entries.insert(name.to_owned(), inode),
                Some(None) => _ = entries.remove(name),
            }
        }
        entries
    }
}

impl File {
    fn after(&self, cut: Cut, random: &mut Random) -> Vec<u8> {
        let mut data = self.data.clone();
        for lost in &self.lost {
            random.damage(&mut data[lost.clone()]);
        }
        let unsynced = data.len() - self.synced;
        if unsynced == 0 {
            return data;
        }
        match cut {
            Cut::Most => {}
            Cut::Least => data.truncate(self.synced),
            // The length may have reached the disk without the bytes.
            Cut::Names if random.below(2) == 0 => data[self.synced..].fill(0),
            Cut::Names => data.truncate(self.synced),
            Cut::Any => {
                data.truncate(self.synced + random.below(unsynced + 1));
                let mut at = self.synced;
                while at < data.len() {
                    let end = data.len().min((at / BLOCK + 1) * BLOCK);
                    if random.below(2) == 0 {
                        random.damage(&mut data[at..end]);
                    }
                    at = end;
                }
            }
        }
        data
    }
}
