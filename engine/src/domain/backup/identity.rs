//! Which image a disk is, so that another one is not taken for it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::format::Unknown;
use crate::format::domain::DiskIdentity;
use crate::source::libvirt::xml::{DiskSource, DomainDisk};

/// Returns the identity of a disk as it is now. `is_local` is whether its host is this one, so that
/// its file can be looked at.
pub(super) fn of(disk: &DomainDisk, is_local: bool) -> DiskIdentity {
    let path = match &disk.source {
        DiskSource::File(path) | DiskSource::Block(path) => path.to_string_lossy().into_owned(),
        DiskSource::Network { protocol, name } => format!("{protocol}:{name}"),
        DiskSource::Volume { pool, volume } => format!("{pool}/{volume}"),
        DiskSource::Empty | DiskSource::Other(_) => String::new(),
    };
    let found = match &disk.source {
        DiskSource::File(path) if is_local => std::fs::metadata(Path::new(path)).ok(),
        _ => None,
    };
    DiskIdentity {
        path,
        format: disk.format.clone(),
        // A device number changes when a host starts anew; the file's own number does not.
        device: found.as_ref().map(MetadataExt::dev),
        inode: found.as_ref().map(MetadataExt::ino),
        bitmap: None,
        unknown: Unknown::new(),
    }
}
