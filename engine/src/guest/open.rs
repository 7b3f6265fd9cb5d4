//! What the disks of a VM hold: which partitions and logical volumes, and what is in each.

use std::fmt;
use std::sync::Arc;

use super::detect::{self, Content, Detected};
use super::guard::{Guarded, guarded};
use super::lvm;
use super::partition::{self, TableKind};
use super::tree::{FileSystem, GuestError};
use super::volume::{Cached, Part, SharedVolume};
use super::{btrfs, ext4, fat, ntfs, xfs};

/// Which part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AreaName {
    /// All of it.
    Whole,
    /// The partition of this number.
    Partition(u32),
    /// A logical volume.
    Logical {
        /// Its volume group.
        group: String,
        /// Its name.
        volume: String,
    },
}

impl fmt::Display for AreaName {
    /// Writes what follows the disk's name: `p1`, or `:group/volume`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Partition(number) => write!(f, "p{number}"),
            Self::Logical { group, volume } => write!(f, ":{group}/{volume}"),
        }
    }
}

/// A part of a disk.
pub struct Area {
    /// Which.
    pub name: AreaName,
    /// Its length in bytes; 0 where that is not known.
    pub size: u64,
    /// The label of what it holds, else the name that the partition table gives it.
    pub label: Option<String>,
    /// What it holds.
    pub content: Content,
    volume: Result<SharedVolume, GuestError>,
}

impl Area {
    fn new(name: AreaName, volume: SharedVolume) -> Self {
        let size = volume.size();
        match detect::detect(&*volume) {
            Ok(Detected { content, label }) => Self {
                name,
                size,
                label,
                content,
                volume: Ok(volume),
            },
            Err(error) => Self::unreadable(name, size, error.into()),
        }
    }

    fn unreadable(name: AreaName, size: u64, error: GuestError) -> Self {
        Self {
            name,
            size,
            label: None,
            content: Content::Unknown,
            volume: Err(error),
        }
    }

    /// Returns why it cannot be read, if that is so.
    pub fn error(&self) -> Option<&GuestError> {
        self.volume.as_ref().err()
    }

    /// Returns its bytes, if it can be read.
    pub fn volume(&self) -> Option<&SharedVolume> {
        self.volume.as_ref().ok()
    }

    /// Returns its bytes.
    pub fn into_volume(self) -> Result<SharedVolume, GuestError> {
        self.volume
    }

    /// Opens the file system in it.
    pub fn open(self) -> Result<Box<dyn FileSystem>, GuestError> {
        open(self.volume?, self.content)
    }
}

/// What a disk holds.
pub struct DiskLayout {
    /// The disk's name in the VM.
    pub target: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its partition table, if it has one.
    pub table: Option<TableKind>,
    /// Its parts.
    pub areas: Vec<Area>,
}

/// What the disks of a VM hold.
pub struct Layout {
    /// The disks, in the order in which they were given.
    pub disks: Vec<DiskLayout>,
    /// What cannot be read of volume groups.
    pub errors: Vec<GuestError>,
}

impl Layout {
    /// Looks into disks, by their names. Logical volumes may lie on several of them. What cannot be
    /// read is a part that says why.
    pub fn read(disks: Vec<(String, SharedVolume)>) -> Self {
        Self::read_over(disks, |_, volume| volume)
    }

    /// Does the same, and has each disk, with a cache in front of it, read through what `over`
    /// makes of it.
    pub fn read_over(
        disks: Vec<(String, SharedVolume)>,
        over: impl Fn(&str, SharedVolume) -> SharedVolume,
    ) -> Self {
        let mut layouts = Vec::new();
        // Physical volumes, with the disk that each is on.
        let mut members = Vec::new();
        for (index, (target, volume)) in disks.into_iter().enumerate() {
            let volume = over(&target, Arc::new(Cached::new(volume)));
            let layout = read_disk(target, volume);
            for area in &layout.areas {
                if let (Content::LvmMember, Ok(volume)) = (area.content, &area.volume) {
                    members.push((index, Arc::clone(volume)));
                }
            }
            layouts.push(layout);
        }
        let (found, errors) = lvm::logical_volumes(&members);
        for logical in found {
            if let Some(layout) = layouts.get_mut(logical.disk) {
                layout.areas.push(logical_area(logical));
            }
        }
        Self {
            disks: layouts,
            errors,
        }
    }

    /// Takes one part out of it. A logical volume is found on whichever disk it begins, where the
    /// one that is named has none of its name. Where several would fit, it is none of them: what is
    /// returned says so when it is opened.
    pub fn take(self, target: &str, name: &AreaName) -> Option<Area> {
        let is_logical = matches!(name, AreaName::Logical { .. });
        let (named, others): (Vec<_>, Vec<_>) = self
            .disks
            .into_iter()
            .partition(|disk| disk.target == target);
        let fitting = |disks: Vec<DiskLayout>| {
            let areas = disks.into_iter().flat_map(|disk| disk.areas);
            areas.filter(|area| area.name == *name).collect::<Vec<_>>()
        };
        let mut found = fitting(named);
        if found.is_empty() && is_logical {
            found = fitting(others);
        }
        let area = found.pop()?;
        if found.is_empty() {
            return Some(area);
        }
        let error = GuestError::Unsupported {
            what: "logical volume",
            feature: "a name that several disks have (name one of them)".to_owned(),
        };
        Some(Area::unreadable(area.name, 0, error))
    }
}

fn read_disk(target: String, volume: SharedVolume) -> DiskLayout {
    let size = volume.size();
    let table = match partition::read(&*volume) {
        Ok(table) => table,
        Err(error) => {
            return DiskLayout {
                target,
                size,
                table: None,
                areas: vec![Area::unreadable(AreaName::Whole, size, error.into())],
            };
        }
    };
    let mut areas = Vec::new();
    let whole = Area::new(AreaName::Whole, Arc::clone(&volume));
    // A file system over all of the disk counts even where an old table is left.
    if table.is_none() || whole.content.is_file_system() {
        areas.push(whole);
    }
    let (kind, partitions) = table.map(|table| (table.kind, table.partitions)).unzip();
    for partition in partitions.into_iter().flatten() {
        let part = Part::new(Arc::clone(&volume), partition.offset, partition.size);
        let mut area = Area::new(AreaName::Partition(partition.number), Arc::new(part));
        area.label = area.label.or(partition.name);
        if let (Some(purpose), Content::Unknown | Content::NoFiles(_)) =
            (partition.purpose, area.content)
        {
            area.content = Content::NoFiles(purpose);
        }
        areas.push(area);
    }
    DiskLayout {
        target,
        size,
        table: kind,
        areas,
    }
}

fn logical_area(logical: lvm::LogicalVolume) -> Area {
    let name = AreaName::Logical {
        group: logical.group,
        volume: logical.name,
    };
    match logical.volume {
        Ok(volume) => Area::new(name, volume),
        Err(error) => Area::unreadable(name, 0, error),
    }
}

/// Opens the file system of a kind that a volume holds.
pub fn open(volume: SharedVolume, content: Content) -> Result<Box<dyn FileSystem>, GuestError> {
    let opener: Opener = match content {
        Content::Ext => ext4::open,
        Content::Xfs => xfs::open,
        Content::Btrfs => btrfs::open,
        Content::Ntfs => ntfs::open,
        Content::Fat => fat::open,
        content => return Err(no_file_system(content)),
    };
    let opened = guarded(content.name(), || opener(volume))?;
    Ok(Box::new(Guarded(opened)))
}

fn no_file_system(content: Content) -> GuestError {
    let hint = match content {
        Content::Foreign(_, hint) => Some(hint),
        Content::LvmMember => Some("name a logical volume as TARGET:GROUP/VOLUME"),
        _ => None,
    };
    let found = match content {
        Content::Unknown => "nothing that is known",
        Content::NoFiles("empty") => "nothing at all",
        content => content.name(),
    };
    GuestError::NoFileSystem { found, hint }
}

type Opener = fn(SharedVolume) -> Result<Box<dyn FileSystem>, GuestError>;
