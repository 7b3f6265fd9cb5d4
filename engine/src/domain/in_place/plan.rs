//! What a restore in place is about to do, before anything is done.

use std::path::PathBuf;

use super::{InPlaceError, Names, Result, check_domain, check_off, describe, fit};
use crate::repository::Snapshot;
use crate::source::libvirt::Domain;

/// What is set back, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The disks that are to be as in the snapshot.
    pub disks: Vec<PlannedDisk>,
    /// Disks of the domain that stay as they are: the snapshot lacks them, or another was asked
    /// for.
    pub left: Vec<String>,
}

/// A disk that is to be set back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDisk {
    /// Its name in the guest.
    pub target: String,
    /// Its file.
    pub path: PathBuf,
    /// Its size in the snapshot, in bytes.
    pub size: u64,
}

/// Returns what setting a domain back to a snapshot would do; with `only`, setting back this disk.
///
/// # Errors
///
/// As [`super::restore_in_place`], as far as that can be told without reading a disk.
pub fn plan(snapshot: &Snapshot, domain: &Domain, only: Option<&str>) -> Result<Plan> {
    let manifest = &*snapshot.manifest;
    let record = manifest.domain.as_ref().ok_or(InPlaceError::NoDomain)?;
    check_domain(domain, record)?;
    check_off(domain)?;
    let description = describe(domain)?;
    let wanted = manifest.disks.iter();
    let wanted = wanted.filter(|disk| only.is_none_or(|only| only == disk.target));
    let planned = wanted.map(|record| {
        let (_, Names { disk: path, .. }) = fit(record, &description)?;
        Ok(PlannedDisk {
            target: record.target.clone(),
            path,
            size: record.size,
        })
    });
    let disks: Vec<PlannedDisk> = planned.collect::<Result<_>>()?;
    if let (true, Some(target)) = (disks.is_empty(), only) {
        let target = target.to_owned();
        return Err(InPlaceError::NoSuchDisk { target });
    }
    let is_left = |target: &&String| disks.iter().all(|disk| disk.target != **target);
    let others = description
        .disks
        .iter()
        .filter(|disk| disk.device == "disk");
    let left = others.map(|disk| &disk.target).filter(is_left).cloned();
    Ok(Plan {
        left: left.collect(),
        disks,
    })
}
