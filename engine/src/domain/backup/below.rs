//! Whether the bitmaps below an overlay tell all that was written before it.
//!
//! A backup job of QEMU's takes the bitmaps of a chain together, from the first image down to the
//! first that has none of the name. That need not be the image that the bitmap was made on.

use std::path::Path;

use super::identity::Files;
use super::plan::Parent;
use crate::format::domain::DiskIdentity;
use crate::source::libvirt::xml::DomainDisk;
use crate::source::{self, Format, SourceError, SourceSpec};

/// Returns why a running domain's disk cannot be read by its changes since a parent, where the
/// bitmap was made on what is a backing file by now. On another host only the file's number is
/// looked at.
pub(super) fn doubt(
    disk: &DomainDisk,
    identity: &DiskIdentity,
    parent: &Parent,
    files: &Files,
) -> Option<String> {
    let origin = parent.origin(&disk.target)?;
    if origin.path == Path::new(&identity.path) {
        return None;
    }
    let found = files.numbers(&origin.path).map(|(_, inode)| inode);
    if origin.inode.zip(found).is_some_and(|(old, new)| old != new) {
        return Some("the image below was replaced by another file".to_owned());
    }
    if !matches!(files, Files::Here) {
        return None;
    }
    let below = disk.backing.first()?;
    let spec = SourceSpec {
        format: Some(Format::Qcow2),
        backing: true,
        data_file: true,
        bitmap: Some(parent.checkpoint.name.clone()),
        origin: Some(origin),
        ..SourceSpec::new(below)
    };
    match source::open(&spec) {
        Ok(_) => None,
        Err(error @ SourceError::Bitmap { .. }) => Some(error.to_string()),
        Err(error) => Some(format!("the bitmap below cannot be looked at: {error}")),
    }
}
