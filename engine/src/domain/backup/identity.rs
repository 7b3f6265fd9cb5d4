//! Which image a disk is, so that another one is not taken for it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::remote::Host;
use crate::domain::DomainError;
use crate::format::Unknown;
use crate::format::domain::DiskIdentity;
use crate::source::libvirt::xml::{DiskSource, DomainDisk};

/// Where the numbers of image files are from.
pub(super) enum Files {
    /// They are on this host.
    Here,
    /// They are on another: device and inode of those that could be looked at.
    There(BTreeMap<PathBuf, (u64, u64)>),
}

impl Files {
    /// Looks at the images of a host; those of one without a shell stay unknown.
    pub(super) fn there(host: Option<&Host>, disks: &[DomainDisk]) -> Result<Self, DomainError> {
        let paths = disks.iter().flat_map(|disk| {
            let image = match &disk.source {
                DiskSource::File(path) => Some(path),
                _ => None,
            };
            image.into_iter().chain(&disk.backing).map(PathBuf::as_path)
        });
        let paths: Vec<&Path> = paths.collect();
        let found = match host {
            Some(host) if !paths.is_empty() => host.inodes(&paths)?,
            _ => Vec::new(),
        };
        let pairs = paths.into_iter().zip(found);
        let pairs = pairs.filter_map(|(path, found)| Some((path.to_owned(), found?)));
        Ok(Self::There(pairs.collect()))
    }

    pub(super) fn numbers(&self, path: &Path) -> Option<(u64, u64)> {
        match self {
            Self::Here => {
                let found = std::fs::metadata(path).ok()?;
                Some((found.dev(), found.ino()))
            }
            Self::There(found) => found.get(path).copied(),
        }
    }
}

/// Returns the identity of a disk as it is now.
pub(super) fn of(disk: &DomainDisk, files: &Files) -> DiskIdentity {
    let path = match &disk.source {
        DiskSource::File(path) | DiskSource::Block(path) => path.to_string_lossy().into_owned(),
        DiskSource::Network { protocol, name } => format!("{protocol}:{name}"),
        DiskSource::Volume { pool, volume } => format!("{pool}/{volume}"),
        DiskSource::Empty | DiskSource::Other(_) => String::new(),
    };
    let found = match &disk.source {
        DiskSource::File(path) => files.numbers(path),
        _ => None,
    };
    DiskIdentity {
        path,
        format: disk.format.clone(),
        // A device number changes when a host starts anew; the file's own number does not.
        device: found.map(|(device, _)| device),
        inode: found.map(|(_, inode)| inode),
        bitmap: None,
        unknown: Unknown::new(),
    }
}
