//! ext2, ext3 and ext4, read-only.
//!
//! Written for this place because files are to be told apart by their inode numbers, with every
//! attribute, and because a journal of any age is to be replayed: see
//! `docs/decisions/0005-own-file-system-readers.md`. The layout is that of the kernel's
//! documentation ("ext4 Data Structures and Algorithms"), the order of the journal that of its
//! `jbd2`.
//!
//! Nothing is loaded in advance but the superblock and what an unclean journal holds. Every number
//! from the disk is checked where it is used.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod attributes;
mod blocks;
mod folder;
mod inode;
mod journal;
mod map;
mod superblock;

use std::io;

use super::tree::{DirEntry, FileId, FileKind, FileSystem, GuestError, Stat};
use super::volume::SharedVolume;
use blocks::Blocks;
use inode::Inode;
use superblock::Superblock;

/// What errors call it.
const WHAT: &str = "ext4 file system";
/// The top folder's inode.
const ROOT: FileId = FileId(2);
/// Content is handed on in pieces of at most this length.
const PIECE_LEN_MAX: usize = 1024 * 1024;
/// The kernel's limit of a path, and so of what a link can hold.
const LINK_LEN_MAX: u64 = 4096;

/// Returns an error about structures that make no sense.
fn damaged(reason: &'static str) -> GuestError {
    GuestError::Damaged {
        what: WHAT,
        source: reason.into(),
    }
}

/// Returns an error about a feature that is not supported here.
fn unsupported(feature: impl Into<String>) -> GuestError {
    GuestError::Unsupported {
        what: WHAT,
        feature: feature.into(),
    }
}

/// Returns a field that its structure must have.
fn need<T>(field: Option<T>) -> Result<T, GuestError> {
    field.ok_or_else(|| damaged("a structure ends too early"))
}

/// Opens the ext2, ext3 or ext4 file system on a volume. What an unclean journal holds is laid
/// over the blocks in memory; where that fails, a caveat says so.
pub fn open(volume: SharedVolume) -> Result<Box<dyn FileSystem>, GuestError> {
    let superblock = Superblock::read(&*volume)?;
    let mut blocks = Blocks::new(volume, superblock);
    let caveats = journal::replay(&mut blocks)?;
    Ok(Box::new(Ext4 { blocks, caveats }))
}

struct Ext4 {
    blocks: Blocks,
    caveats: Vec<String>,
}

impl Ext4 {
    fn inode(&self, file: FileId) -> Result<Inode, GuestError> {
        Inode::read(&self.blocks, file.0)
    }
}

impl FileSystem for Ext4 {
    fn kind(&self) -> &'static str {
        self.blocks.superblock.kind()
    }

    fn caveats(&self) -> &[String] {
        &self.caveats
    }

    fn root(&self) -> FileId {
        ROOT
    }

    fn stat(&self, file: FileId) -> Result<Stat, GuestError> {
        self.inode(file)?.stat()
    }

    fn read_folder(
        &self,
        folder: FileId,
        sink: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), GuestError> {
        folder::read(&self.blocks, &self.inode(folder)?, sink)
    }

    fn read_link(&self, link: FileId) -> Result<Vec<u8>, GuestError> {
        let inode = self.inode(link)?;
        if inode.kind()? != FileKind::Symlink {
            return Err(damaged("a file that is no symbolic link is read as one"));
        }
        if inode.is_encrypted() {
            return Err(unsupported("encryption of this symbolic link"));
        }
        if inode.size() > LINK_LEN_MAX {
            return Err(damaged("a symbolic link is too long"));
        }
        let target = match inode.target_in_place()? {
            Some(target) => target.to_vec(),
            None => content(&self.blocks, &inode, LINK_LEN_MAX)?,
        };
        // The kernel ends a target at its first zero as well.
        let end = target.iter().position(|byte| *byte == 0);
        Ok(target
            .get(..end.unwrap_or(target.len()))
            .unwrap_or_default()
            .to_vec())
    }

    fn read_file(
        &self,
        file: FileId,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), GuestError> {
        let inode = self.inode(file)?;
        if inode.is_encrypted() {
            return Err(unsupported("encryption of this file"));
        }
        read_content(&self.blocks, &inode, sink)
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, GuestError> {
        attributes::read(&self.blocks, &self.inode(file)?)
    }
}

/// Hands what a file holds to `sink`, without its holes.
fn read_content(
    blocks: &Blocks,
    inode: &Inode,
    sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> Result<(), GuestError> {
    if inode.is_inline() {
        let bytes = attributes::inline_content(blocks, inode)?;
        if !bytes.is_empty() {
            sink(0, &bytes)?;
        }
        return Ok(());
    }
    let block_len = blocks.superblock.block_len;
    let mut piece = Vec::new();
    map::for_each_run(blocks, inode, &mut |run| {
        let mut at = run.logical.saturating_mul(block_len);
        let mut from = run.physical.saturating_mul(block_len);
        let end = at
            .saturating_add(run.count.saturating_mul(block_len))
            .min(inode.size());
        while at < end {
            let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let len = left.min(PIECE_LEN_MAX);
            piece.resize(len, 0);
            blocks.read(from, &mut piece)?;
            sink(at, &piece)?;
            at = at.saturating_add(len as u64);
            from = from.saturating_add(len as u64);
        }
        Ok(at < inode.size())
    })
}

/// Returns all of a short file, at most `limit` bytes.
fn content(blocks: &Blocks, inode: &Inode, limit: u64) -> Result<Vec<u8>, GuestError> {
    let len = usize::try_from(inode.size().min(limit)).unwrap_or_default();
    let mut bytes = vec![0; len];
    read_content(blocks, inode, &mut |at, piece| {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        for (to, from) in bytes.iter_mut().skip(at).zip(piece) {
            *to = *from;
        }
        Ok(())
    })?;
    Ok(bytes)
}
