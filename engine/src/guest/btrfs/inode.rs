//! Inodes, folders and extended attributes.

use super::tree::{Key, Tree};
use super::{Btrfs, WHAT};
use crate::guest::fields::{Fields, check_name, damaged, time};
use crate::guest::tree::{DirEntry, FileKind, FileTime, GuestError, Stat};

const INODE_ITEM: u8 = 1;
const XATTR_ITEM: u8 = 24;
const DIR_ITEM: u8 = 84;
const DIR_INDEX: u8 = 96;
const ROOT_ITEM: u8 = 132;
const ROOT_REF: u8 = 156;

/// The folder of the tree of roots in which the default subvolume is named.
const ROOT_TREE_FOLDER: u64 = 6;

/// The subvolume that all others are in.
pub(super) const TOP_LEVEL: u64 = 5;

/// What the attributes of one file may come to here.
const ATTRIBUTES_MAX: usize = 16 << 20;

/// Names and values, as the system calls have them.
pub(super) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// A subvolume that can be walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subvolume {
    pub id: u64,
    /// Logical address of its tree.
    pub root: u64,
    /// Its top folder.
    pub top: u64,
}

/// A name in a folder, or of an attribute.
struct Named<'a> {
    location: Key,
    name: &'a [u8],
    value: &'a [u8],
    /// What follows in the same item: names of one hash share one.
    rest: Fields<'a>,
}

impl<'a> Named<'a> {
    fn decode(fields: Fields<'a>) -> Result<Self, GuestError> {
        let name_len = usize::from(fields.le16(27)?);
        let value_len = usize::from(fields.le16(25)?);
        let value_at = name_len.saturating_add(30);
        Ok(Self {
            location: Key::decode(fields, 0)?,
            name: fields.get(30, name_len)?,
            value: fields.get(value_at, value_len)?,
            rest: fields.from(value_at.saturating_add(value_len))?,
        })
    }
}

/// Returns a subvolume by its number; `None` where there is none, or it has been deleted.
pub(super) fn subvolume(tree: &Tree, roots: u64, id: u64) -> Result<Option<Subvolume>, GuestError> {
    let Some((_, item)) = tree.first(roots, Key::new(id, ROOT_ITEM, 0))? else {
        return Ok(None);
    };
    let fields = Fields::new(WHAT, &item);
    let live = fields.le32(216)? != 0;
    let subvolume = Subvolume {
        id,
        root: fields.le64(176)?,
        top: fields.le64(168)?,
    };
    Ok(live.then_some(subvolume))
}

/// Returns the number of the subvolume that is mounted unless another is asked for.
pub(super) fn default_subvolume(tree: &Tree, roots: u64) -> Result<u64, GuestError> {
    let mut default = TOP_LEVEL;
    tree.all_of(roots, (ROOT_TREE_FOLDER, DIR_ITEM), &mut |_, item| {
        let mut fields = Fields::new(WHAT, item);
        while !fields.bytes().is_empty() {
            let named = Named::decode(fields)?;
            if named.name == b"default" {
                default = named.location.object;
            }
            fields = named.rest;
        }
        Ok(true)
    })?;
    Ok(default)
}

/// Returns what is known of a file.
pub(super) fn stat(tree: &Tree, subvolume: Subvolume, inode: u64) -> Result<Stat, GuestError> {
    let found = tree.first(subvolume.root, Key::new(inode, INODE_ITEM, 0))?;
    let (_, item) = found.ok_or_else(|| damaged(WHAT, "an inode is missing"))?;
    let fields = Fields::new(WHAT, &item);
    let mode = fields.le32(52)?;
    let device = || -> Result<u64, GuestError> {
        let number = fields.le64(56)?;
        let (major, minor) = (number >> 20 & 0xfff, number & 0xf_ffff);
        let [major, minor] = [major, minor].map(|part| u32::try_from(part).unwrap_or_default());
        Ok(rustix::fs::makedev(major, minor))
    };
    let kind = match mode >> 12 & 0xf {
        0o01 => FileKind::Fifo,
        0o02 => FileKind::CharDevice(device()?),
        0o04 => FileKind::Folder,
        0o06 => FileKind::BlockDevice(device()?),
        0o10 => FileKind::File,
        0o12 => FileKind::Symlink,
        0o14 => FileKind::Socket,
        _ => return Err(damaged(WHAT, "a file is of no kind")),
    };
    let at_time = |at: usize| -> Result<FileTime, GuestError> {
        let seconds = fields.le64(at)?.cast_signed();
        Ok(time(seconds, fields.le32(at.saturating_add(8))?))
    };
    Ok(Stat {
        kind,
        mode: u16::try_from(mode & 0o7777).ok(),
        owner: Some((fields.le32(44)?, fields.le32(48)?)),
        size: fields.le64(16)?,
        links: fields.le32(40)?,
        modified: at_time(136)?,
        accessed: Some(at_time(112)?),
    })
}

/// Hands the names of a folder to `sink` until it returns `false`.
pub(super) fn read_folder(
    fs: &Btrfs,
    subvolume: Subvolume,
    folder: u64,
    sink: &mut dyn FnMut(DirEntry) -> bool,
) -> Result<(), GuestError> {
    fs.tree
        .all_of(subvolume.root, (folder, DIR_INDEX), &mut |_, item| {
            let named = Named::decode(Fields::new(WHAT, item))?;
            check_name(WHAT, named.name)?;
            let id = match named.location.kind {
                INODE_ITEM => fs.id(subvolume, named.location.object)?,
                ROOT_ITEM => {
                    let child = named.location.object;
                    match linked(fs, subvolume, folder, child, named.name)? {
                        Some(child) => fs.id(child, child.top)?,
                        None => Btrfs::EMPTY_FOLDER,
                    }
                }
                _ => return Err(damaged(WHAT, "a name in a folder names no file")),
            };
            Ok(sink(DirEntry {
                name: named.name.to_vec(),
                id,
            }))
        })
}

/// Returns the subvolume that a folder names, if it is linked there: in a snapshot of the folder
/// it is not, and the kernel shows an empty folder instead.
fn linked(
    fs: &Btrfs,
    parent: Subvolume,
    folder: u64,
    child: u64,
    name: &[u8],
) -> Result<Option<Subvolume>, GuestError> {
    let wanted = Key::new(parent.id, ROOT_REF, child);
    let Some((key, item)) = fs.tree.first(fs.roots, wanted)? else {
        return Ok(None);
    };
    let fields = Fields::new(WHAT, &item);
    let here = key == wanted && fields.le64(0)? == folder && fields.from(18)?.bytes() == name;
    if !here {
        return Ok(None);
    }
    subvolume(&fs.tree, fs.roots, child)
}

/// Returns the extended attributes of a file.
pub(super) fn attributes(
    tree: &Tree,
    subvolume: Subvolume,
    inode: u64,
) -> Result<Attributes, GuestError> {
    let mut found = Vec::new();
    let mut sum: usize = 0;
    tree.all_of(subvolume.root, (inode, XATTR_ITEM), &mut |_, item| {
        sum = sum.saturating_add(item.len());
        if sum > ATTRIBUTES_MAX {
            return Err(damaged(WHAT, "the attributes of a file do not end"));
        }
        let mut fields = Fields::new(WHAT, item);
        while !fields.bytes().is_empty() {
            let named = Named::decode(fields)?;
            if named.name.is_empty() || named.name.contains(&0) {
                return Err(damaged(WHAT, "the name of an attribute is impossible"));
            }
            found.push((named.name.to_vec(), named.value.to_vec()));
            fields = named.rest;
        }
        Ok(true)
    })?;
    Ok(found)
}
