//! Btrfs on one device, as the kernel mounts it: the default subvolume, with the subvolumes that
//! are nested in it at their places. What lies beside a default subvolume is below a hidden folder.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod chunks;
mod content;
mod inode;
mod superblock;
mod tree;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use inode::Subvolume;
use tree::Tree;

use super::fields::{damaged, unsupported};
use super::tree::{
    DirEntry, FileId, FileKind, FileSystem, FileTime, GuestError, Stat, Volume, lookup,
};

const WHAT: &str = "btrfs file system";

/// Name in the top folder of the one that all subvolumes are in, where the default subvolume is
/// another. No listing has it. A file of the guest's that has this name comes first.
pub const HIDDEN_TOP: &str = ".btrfs";

/// Returns the folder [`HIDDEN_TOP`] of a file system, if it has one.
pub fn hidden_top(file_system: &dyn FileSystem) -> Option<FileId> {
    let (root, name) = (file_system.root(), HIDDEN_TOP.as_bytes());
    if file_system.kind() != "btrfs" {
        return None;
    }
    match lookup(file_system, root, name) {
        Err(GuestError::NotFound) => file_system.lookup(root, name).ok(),
        _ => None,
    }
}

/// Returns whether a volume that starts with these bytes, at least 68 KiB of it, holds btrfs.
pub fn is(start: &[u8]) -> bool {
    superblock::is(start)
}

/// Opens the file system of a volume. Files synced since the last commit are in a log that is not
/// replayed; [`FileSystem::caveats`] tells of it.
pub fn open(volume: Arc<dyn Volume>) -> Result<Box<dyn FileSystem>, GuestError> {
    let superblock = superblock::read(&*volume)?;
    let tree = Tree::open(volume, &superblock)?;
    let roots = superblock.root;
    let default = inode::default_subvolume(&tree, roots)?;
    let default = inode::subvolume(&tree, roots, default)?
        .ok_or_else(|| damaged(WHAT, "the default subvolume is missing"))?;
    let top = match default.id {
        inode::TOP_LEVEL => None,
        _ => inode::subvolume(&tree, roots, inode::TOP_LEVEL)?,
    };
    let mut caveats = Vec::new();
    if superblock.log_root != 0 {
        caveats.push(
            "the log of the btrfs file system was not replayed: \
             files that were synced in the last seconds before the snapshot may be older"
                .to_owned(),
        );
    }
    let fs = Btrfs {
        tree,
        roots,
        sector_size: superblock.sector_size,
        default,
        top,
        seen: Mutex::new(vec![default]),
        caveats,
    };
    if fs.stat(fs.root())?.kind != FileKind::Folder {
        return Err(damaged(WHAT, "the top folder is none"));
    }
    Ok(Box::new(fs))
}

struct Btrfs {
    tree: Tree,
    /// Logical address of the tree of roots.
    roots: u64,
    sector_size: usize,
    default: Subvolume,
    /// The one that holds all others, where that is not the default.
    top: Option<Subvolume>,
    /// Subvolumes by the numbers that file ids have for them.
    seen: Mutex<Vec<Subvolume>>,
    caveats: Vec<String>,
}

impl Btrfs {
    /// Stands where a snapshot has a folder that was a subvolume. No inode has this number.
    const EMPTY_FOLDER: FileId = FileId(0);

    /// Bits of a file id that are the number of the inode; the number of the subvolume is above.
    const INODE_BITS: u32 = 48;

    /// Returns the id of a file.
    fn id(&self, subvolume: Subvolume, inode: u64) -> Result<FileId, GuestError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.iter().position(|known| known.id == subvolume.id);
        let number = known.unwrap_or(seen.len());
        if inode == 0 || inode >> Self::INODE_BITS != 0 {
            return Err(unsupported(WHAT, "inode numbers of more than 48 bits"));
        }
        let number =
            u16::try_from(number).map_err(|_| unsupported(WHAT, "more than 65536 subvolumes"))?;
        if known.is_none() {
            seen.push(subvolume);
        }
        Ok(FileId(u64::from(number) << Self::INODE_BITS | inode))
    }

    /// Returns the subvolume and the inode of a file.
    fn place(&self, file: FileId) -> Result<(Subvolume, u64), GuestError> {
        let number = usize::try_from(file.0 >> Self::INODE_BITS).unwrap_or(usize::MAX);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let subvolume = seen.get(number).copied().ok_or(GuestError::NotFound)?;
        Ok((subvolume, file.0 & ((1 << Self::INODE_BITS) - 1)))
    }

    fn place_of(&self, file: FileId, kind: FileKind) -> Result<(Subvolume, u64, u64), GuestError> {
        let (subvolume, inode) = self.place(file)?;
        let stat = inode::stat(&self.tree, subvolume, inode)?;
        match kind {
            _ if stat.kind == kind => Ok((subvolume, inode, stat.size)),
            FileKind::Folder => Err(GuestError::NotAFolder),
            _ => Err(GuestError::NotFound),
        }
    }
}

impl FileSystem for Btrfs {
    fn kind(&self) -> &'static str {
        "btrfs"
    }

    fn caveats(&self) -> &[String] {
        &self.caveats
    }

    fn root(&self) -> FileId {
        // The default subvolume is number 0 of those seen.
        FileId(self.default.top)
    }

    fn stat(&self, file: FileId) -> Result<Stat, GuestError> {
        if file == Self::EMPTY_FOLDER {
            return Ok(empty_folder());
        }
        let (subvolume, inode) = self.place(file)?;
        inode::stat(&self.tree, subvolume, inode)
    }

    fn read_folder(
        &self,
        folder: FileId,
        sink: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), GuestError> {
        if folder == Self::EMPTY_FOLDER {
            return Ok(());
        }
        let (subvolume, inode, _) = self.place_of(folder, FileKind::Folder)?;
        inode::read_folder(self, subvolume, inode, sink)
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<FileId, GuestError> {
        let hidden = self.top.filter(|_| folder == self.root());
        let hidden = hidden.filter(|_| name == HIDDEN_TOP.as_bytes());
        match (lookup(self, folder, name), hidden) {
            (Err(GuestError::NotFound), Some(top)) => self.id(top, top.top),
            (found, _) => found,
        }
    }

    fn read_link(&self, link: FileId) -> Result<Vec<u8>, GuestError> {
        let (subvolume, inode, size) = self.place_of(link, FileKind::Symlink)?;
        content::read_link(self, subvolume, inode, size)
    }

    fn read_file(
        &self,
        file: FileId,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), GuestError> {
        let (subvolume, inode, size) = self.place_of(file, FileKind::File)?;
        content::read(self, subvolume, inode, size, sink)
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, GuestError> {
        if file == Self::EMPTY_FOLDER {
            return Ok(Vec::new());
        }
        let (subvolume, inode) = self.place(file)?;
        inode::attributes(&self.tree, subvolume, inode)
    }
}

/// What the kernel shows where a subvolume was, but for times, which it makes up.
fn empty_folder() -> Stat {
    Stat {
        kind: FileKind::Folder,
        mode: Some(0o755),
        owner: Some((0, 0)),
        size: 0,
        links: 1,
        modified: FileTime::default(),
        accessed: None,
    }
}
