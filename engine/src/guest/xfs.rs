//! XFS, versions 4 and 5, as the kernel shows it once the log has been replayed.
//!
//! The log is replayed in memory by `lamxfs`; what is read then is read here, since that crate
//! tells neither owners, times, extended attributes nor holes.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod attributes;
mod content;
mod folder;
mod geometry;
mod inode;
mod map;
mod replay;

use std::io;
use std::sync::Arc;

use geometry::Geometry;
use inode::Inode;
use replay::Replay;

use super::fields::damaged;
use super::tree::{DirEntry, FileId, FileKind, FileSystem, GuestError, Stat, Volume};

const WHAT: &str = "xfs file system";

/// Returns whether a volume that starts with these bytes holds XFS.
pub fn is(start: &[u8]) -> bool {
    start.starts_with(b"XFSB")
}

/// Opens the file system of a volume. An unclean log is replayed in memory; one that cannot be is
/// told by [`FileSystem::caveats`].
pub fn open(volume: Arc<dyn Volume>) -> Result<Box<dyn FileSystem>, GuestError> {
    let mut caveats = Vec::new();
    let volume = match replay::replay(&volume)? {
        Replay::Done(replayed) => replayed,
        Replay::Refused => {
            caveats.push(
                "the log of the xfs file system holds changes that cannot be replayed here: \
                 the last changes before the snapshot are missing"
                    .to_owned(),
            );
            volume
        }
    };
    let mut start = vec![0; 512];
    volume.read_at(0, &mut start)?;
    let disk = Disk {
        geometry: Geometry::decode(&start)?,
        volume,
    };
    let xfs = Xfs { disk, caveats };
    if xfs.stat(xfs.root())?.kind != FileKind::Folder {
        return Err(damaged(WHAT, "the top folder is none"));
    }
    Ok(Box::new(xfs))
}

/// A volume, and where things are on it.
struct Disk {
    volume: Arc<dyn Volume>,
    geometry: Geometry,
}

struct Xfs {
    disk: Disk,
    caveats: Vec<String>,
}

impl Xfs {
    fn inode(&self, file: FileId, kind: FileKind) -> Result<Inode, GuestError> {
        let inode = Inode::read(&self.disk, file.0)?;
        if inode.kind()? != kind {
            return Err(match kind {
                FileKind::Folder => GuestError::NotAFolder,
                _ => GuestError::NotFound,
            });
        }
        Ok(inode)
    }
}

impl FileSystem for Xfs {
    fn kind(&self) -> &'static str {
        "xfs"
    }

    fn caveats(&self) -> &[String] {
        &self.caveats
    }

    fn root(&self) -> FileId {
        FileId(self.disk.geometry.root)
    }

    fn stat(&self, file: FileId) -> Result<Stat, GuestError> {
        Inode::read(&self.disk, file.0)?.stat()
    }

    fn read_folder(
        &self,
        folder: FileId,
        sink: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), GuestError> {
        folder::read(&self.disk, &self.inode(folder, FileKind::Folder)?, sink)
    }

    fn read_link(&self, link: FileId) -> Result<Vec<u8>, GuestError> {
        content::read_link(&self.disk, &self.inode(link, FileKind::Symlink)?)
    }

    fn read_file(
        &self,
        file: FileId,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), GuestError> {
        content::read(&self.disk, &self.inode(file, FileKind::File)?, sink)
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, GuestError> {
        attributes::read(&self.disk, &Inode::read(&self.disk, file.0)?)
    }
}
