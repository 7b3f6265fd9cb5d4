//! Room for what the guest overwrites while it is read. Where it runs full, QEMU fails the guest's
//! own writes: so it is looked at before, and all the time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::options::ScratchOptions;
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

/// What takes what the guest writes meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScratchKind {
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
}

/// The scratch files of a job.
#[derive(Debug, Clone)]
pub(super) struct Scratch {
    files: BTreeMap<String, PathBuf>,
    /// Folders, and what must stay free in each.
    reserves: BTreeMap<PathBuf, u64>,
}

impl Scratch {
    /// Chooses a file for each disk, and looks whether there is room. On another host nobody can
    /// look.
    pub(super) fn plan(
        run: &str,
        disks: &[(&DomainDisk, u64)],
        options: &ScratchOptions,
        is_local: bool,
    ) -> Result<Self, DomainError> {
        Self::plan_as(ScratchKind::Scratch, run, disks, options, is_local)
    }

    /// Does the same for files of a kind.
    pub(super) fn plan_as(
        kind: ScratchKind,
        run: &str,
        disks: &[(&DomainDisk, u64)],
        options: &ScratchOptions,
        is_local: bool,
    ) -> Result<Self, DomainError> {
        let mut files = BTreeMap::new();
        let mut sizes: BTreeMap<PathBuf, u64> = BTreeMap::new();
        for (disk, size) in disks {
            let folder = options.folder.clone().unwrap_or_else(|| folder_of(disk));
            let name = format!(".cairn-{run}-{}.{}", disk.target, kind.extension());
            files.insert(disk.target.clone(), folder.join(name));
            let total = sizes.entry(folder).or_default();
            *total = total.saturating_add(*size);
        }
        let mut reserves = BTreeMap::new();
        for (folder, size) in sizes.into_iter().filter(|_| is_local) {
            let wanted = options.min.unwrap_or_else(|| MIN_DEFAULT.max(size / 10));
            check(&folder, wanted)?;
            reserves.insert(folder, wanted / RESERVE_DIVISOR);
        }
        Ok(Self { files, reserves })
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
        check(folder, wanted)?;
        Ok(folder.join(name))
    }

    /// Returns all files.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.values().cloned().collect()
    }

    /// Returns what is wrong where too little is left.
    pub(super) fn shortage(&self) -> Option<String> {
        self.reserves.iter().find_map(|(folder, reserve)| {
            let free = free_in(folder).ok()?;
            (free < *reserve).then(|| {
                let folder = folder.display();
                format!("{folder} has {free} bytes left for scratch files, and {reserve} must stay")
            })
        })
    }
}

fn folder_of(disk: &DomainDisk) -> PathBuf {
    match &disk.source {
        DiskSource::File(path) => path
            .parent()
            .map_or_else(|| FOLDER_DEFAULT.into(), Path::to_owned),
        _ => PathBuf::from(FOLDER_DEFAULT),
    }
}

fn check(folder: &Path, wanted: u64) -> Result<(), DomainError> {
    let found = rustix::fs::statfs(folder);
    let found = found.map_err(|error| DomainError::file("look at", folder)(error.into()))?;
    if MEMORY_FILE_SYSTEMS.contains(&found.f_type) {
        let folder = folder.to_owned();
        return Err(DomainError::ScratchInMemory { folder });
    }
    let free = free_in(folder).map_err(DomainError::file("look at", folder))?;
    match free < wanted {
        true => Err(DomainError::NoScratch {
            folder: folder.to_owned(),
            free,
            wanted,
        }),
        false => Ok(()),
    }
}

fn free_in(folder: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
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
        let planned = Scratch::plan("0a", &[(&disk, 1)], &options(1), true).expect("there is room");
        assert_eq!(
            planned.file("vda"),
            folder.path().join(".cairn-0a-vda.scratch")
        );
        assert_eq!(planned.shortage(), None);
        let refused = Scratch::plan("0a", &[(&disk, 1)], &options(u64::MAX), true);
        assert!(matches!(refused, Err(DomainError::NoScratch { .. })));
        let in_memory = ScratchOptions {
            folder: Some("/dev/shm".into()),
            min: Some(1),
        };
        let refused = Scratch::plan("0a", &[(&disk, 1)], &in_memory, true);
        assert!(matches!(refused, Err(DomainError::ScratchInMemory { .. })));
    }
}
