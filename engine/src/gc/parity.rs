//! Parity goes when its pack has gone.

use std::collections::BTreeSet;

use crate::format::parity::ParityLayout;
use crate::id::PackId;
use crate::repository::Repository;
use crate::storage::{Area, Listed, Name, StorageError};

use super::{GcError, GcReport};

/// Returns the parity of packs that are not there, or that `goes` names.
///
/// Parity is listed first. It is never there before its pack, so a pack that is not listed after it
/// has been deleted, and nobody makes one of that name again.
fn left(repository: &Repository, goes: &BTreeSet<PackId>) -> Result<Vec<Listed>, StorageError> {
    if repository.config().parity_percent.is_none() {
        return Ok(Vec::new());
    }
    let mut parity = repository.storage().list(Area::Parity)?;
    let packs = repository.storage().list(Area::Packs)?.into_iter();
    let packs: BTreeSet<Name> = packs.map(|listed| listed.name).collect();
    parity.retain(|listed| match listed.name {
        Name::Parity(id) => goes.contains(&id) || !packs.contains(&Name::Pack(id)),
        _ => false,
    });
    Ok(parity)
}

/// Deletes the parity of packs that are gone. A power cut may bring it back, for the next
/// collection to delete.
pub(super) fn delete(repository: &Repository, report: &mut GcReport) -> Result<(), GcError> {
    for listed in left(repository, &BTreeSet::new())? {
        repository.storage().delete(&listed.name)?;
        report.deleted_bytes += listed.len;
    }
    Ok(())
}

/// Adds what would be deleted together with packs, and after those that are gone already.
pub(super) fn survey(
    repository: &Repository,
    goes: &BTreeSet<PackId>,
    report: &mut GcReport,
) -> Result<(), GcError> {
    let left = left(repository, goes)?;
    report.deleted_bytes += left.iter().map(|listed| listed.len).sum::<u64>();
    Ok(())
}

/// Returns about how long the parity of a pack of this length is.
pub(super) fn estimate(repository: &Repository, pack_len: u64) -> u64 {
    let layout = |percent| ParityLayout::new(pack_len, percent).ok();
    let layout = repository.config().parity_percent.and_then(layout);
    layout.map_or(0, |layout| layout.file_len())
}
