//! Room for what the guest overwrites while it is read. Where it runs full, QEMU fails the guest's
//! own writes: so it is looked at before, and all the time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::options::ScratchOptions;
use super::remote::{Far, Host};
use crate::domain::DomainError;
use crate::limits::MIB;
use crate::source::libvirt::xml::{DiskSource, DomainDisk};

/// What must be free at least where nothing else is said.
const MIN_DEFAULT: u64 = 1024 * MIB;
/// A job is given up when less than this share of what was wanted at the start is free.
const RESERVE_DIVISOR: u64 = 4;
/// Where scratch files go of disks that have no folder.
const FOLDER_DEFAULT: &str = "/var/tmp";
/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of `linux/magic.h`.
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Free bytes.
    pub(super) free: u64,
    /// Its number in `linux/magic.h`.
    pub(super) kind: i64,
}

/// Where scratch files are.
#[derive(Clone, Copy)]
pub(super) enum Place<'p> {
    /// On this host.
    Here,
    /// On a host with a shell.
    There(&'p Host),
    /// On a host where nobody can look.
    Unseen,
}

/// How the room is watched during the job.
#[derive(Debug, Clone)]
enum Eye {
    Here,
    There(Arc<Far>),
    Closed,
}

/// What takes what the guest writes meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum ScratchKind {
    /// A file that takes what was there before.
    Scratch,
    /// An image above the disk's own that takes what is new.
    Overlay,
}

impl ScratchKind {
    fn extension(self) -> &'static str {
        match self {
            Self::Scratch => "scratch",
            Self::Overlay => "overlay",
        }
    }

    /// Returns the name of a disk's file of a run.
    pub(in crate::domain) fn name(self, run: &str, target: &str) -> String {
        format!("{}{target}.{}", scratch_mark(run), self.extension())
    }
}

/// The scratch files of a job.
#[derive(Debug, Clone)]
pub(super) struct Scratch {
    files: BTreeMap<String, PathBuf>,
    /// Folders, and what must stay free in each.
    reserves: BTreeMap<PathBuf, u64>,
    eye: Eye,
}

impl Scratch {
    /// Watches nothing: for runs without scratch files.
    pub(super) fn none() -> Self {
        Self {
            files: BTreeMap::new(),
            reserves: BTreeMap::new(),
            eye: Eye::Closed,
        }
    }

    /// Chooses a file for each disk, and looks whether there is room.
    pub(super) fn plan(
        run: &str,
        disks: &[(&DomainDisk, u64)],
        options: &ScratchOptions,
        place: Place<'_>,
    ) -> Result<Self, DomainError> {
        Self::plan_as(ScratchKind::Scratch, run, disks, options, place)
    }

    /// Does the same for files of a kind.
    pub(super) fn plan_as(
        kind: ScratchKind,
        run: &str,
        disks: &[(&DomainDisk, u64)],
        options: &ScratchOptions,
        place: Place<'_>,
    ) -> Result<Self, DomainError> {
        let mut files = BTreeMap::new();
        let mut sizes: BTreeMap<PathBuf, u64> = BTreeMap::new();
        for (disk, size) in disks {
            let folder = options.folder.clone().unwrap_or_else(|| folder_of(disk));
            files.insert(
                disk.target.clone(),
                folder.join(kind.name(run, &disk.target)),
            );
            let total = sizes.entry(folder).or_default();
            *total = total.saturating_add(*size);
        }
        let mut reserves = BTreeMap::new();
        let rooms = rooms(&sizes, place)?;
        for ((folder, size), room) in sizes.into_iter().zip(rooms) {
            let wanted = options.min.unwrap_or_else(|| MIN_DEFAULT.max(size / 10));
            check(&folder, room, wanted)?;
            reserves.insert(folder, wanted / RESERVE_DIVISOR);
        }
        let eye = match place {
            Place::Here => Eye::Here,
            Place::There(_) | Place::Unseen => Eye::Closed,
        };
        Ok(Self {
            files,
            reserves,
            eye,
        })
    }

    /// Watches the room of another host from here on.
    pub(super) fn look_through(&mut self, far: Arc<Far>) {
        self.eye = Eye::There(far);
    }

    /// Returns the folders whose room is to be watched.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        self.reserves.keys().cloned().collect()
    }

    /// Returns the file of a disk.
    pub(super) fn file(&self, target: &str) -> PathBuf {
        self.files.get(target).cloned().unwrap_or_default()
    }

    /// Chooses a file for so many bytes more in the folder of the first disk's, and looks whether
    /// there is room for it too.
    pub(super) fn more(&self, name: &str, len: u64) -> Result<PathBuf, DomainError> {
        let first = self.files.values().next();
        let folder = first
            .and_then(|file| file.parent())
            .unwrap_or(Path::new(FOLDER_DEFAULT));
        let reserve = self.reserves.get(folder).copied().unwrap_or_default();
        let wanted = reserve.saturating_mul(RESERVE_DIVISOR).saturating_add(len);
        check(folder, look(folder)?, wanted)?;
        Ok(folder.join(name))
    }

    /// Returns all files.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.values().cloned().collect()
    }

    /// Returns what is wrong where too little is left, or nobody can look any more.
    pub(super) fn shortage(&self) -> Option<String> {
        if let Eye::There(far) = &self.eye
            && let Some(ended) = far.ended()
        {
            return Some(ended);
        }
        self.reserves.iter().find_map(|(folder, reserve)| {
            let free = match &self.eye {
                Eye::Here => room_in(folder).ok()?.free,
                Eye::There(far) => far.free(folder)?,
                Eye::Closed => return None,
            };
            (free < *reserve).then(|| {
                let folder = folder.display();
                format!("{folder} has {free} bytes left for scratch files, and {reserve} must stay")
            })
        })
    }
}

/// Returns how the names of a run's scratch files begin.
pub(in crate::domain) fn scratch_mark(run: &str) -> String {
    format!(".cairn-{run}-")
}

fn folder_of(disk: &DomainDisk) -> PathBuf {
    match &disk.source {
        DiskSource::File(path) => path
            .parent()
            .map_or_else(|| FOLDER_DEFAULT.into(), Path::to_owned),
        _ => PathBuf::from(FOLDER_DEFAULT),
    }
}

fn rooms(sizes: &BTreeMap<PathBuf, u64>, place: Place<'_>) -> Result<Vec<Room>, DomainError> {
    let folders: Vec<&Path> = sizes.keys().map(PathBuf::as_path).collect();
    match place {
        Place::Here => folders.into_iter().map(look).collect(),
        Place::There(host) => host.rooms(&folders),
        Place::Unseen => Ok(Vec::new()),
    }
}

fn look(folder: &Path) -> Result<Room, DomainError> {
    room_in(folder).map_err(DomainError::file("look at", folder))
}

fn check(folder: &Path, room: Room, wanted: u64) -> Result<(), DomainError> {
    if MEMORY_FILE_SYSTEMS.contains(&room.kind) {
        let folder = folder.to_owned();
        return Err(DomainError::ScratchInMemory { folder });
    }
    match room.free < wanted {
        true => Err(DomainError::NoScratch {
            folder: folder.to_owned(),
            free: room.free,
            wanted,
        }),
        false => Ok(()),
    }
}

fn room_in(folder: &Path) -> std::io::Result<Room> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(Room {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        kind: rustix::fs::statfs(folder)?.f_type,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &Path) -> DomainDisk {
        DomainDisk {
            target: "vda".to_owned(),
            device: "disk".to_owned(),
            format: "qcow2".to_owned(),
            source: DiskSource::File(path.to_owned()),
            is_read_only: false,
            is_transient: false,
            backing: Vec::new(),
        }
    }

    #[test]
    fn scratch_lies_beside_the_image_and_never_in_memory() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let disk = disk(&folder.path().join("a.qcow2"));
        let options = |min| ScratchOptions {
            folder: None,
            min: Some(min),
        };
        let planned =
            Scratch::plan("0a", &[(&disk, 1)], &options(1), Place::Here).expect("there is room");
        assert_eq!(
            planned.file("vda"),
            folder.path().join(".cairn-0a-vda.scratch")
        );
        assert_eq!(planned.shortage(), None);
        let refused = Scratch::plan("0a", &[(&disk, 1)], &options(u64::MAX), Place::Here);
        assert!(matches!(refused, Err(DomainError::NoScratch { .. })));
        let in_memory = ScratchOptions {
            folder: Some("/dev/shm".into()),
            min: Some(1),
        };
        let refused = Scratch::plan("0a", &[(&disk, 1)], &in_memory, Place::Here);
        assert!(matches!(refused, Err(DomainError::ScratchInMemory { .. })));
    }
}
