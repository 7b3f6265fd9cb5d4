//! Parity goes when its pack has gone.

use std::collections::BTreeSet;

use crate::format::parity::ParityLayout;
use crate::id::PackId;
use crate::repository::Repository;

use super::{GcError, GcReport};

/// Deletes the parity of packs that are gone. A power cut may bring it back, for the next
/// collection to delete.
pub(super) fn delete(repository: &Repository, report: &mut GcReport) -> Result<(), GcError> {
    for listed in repository.parity_left(&BTreeSet::new())? {
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
    let left = repository.parity_left(goes)?;
    report.deleted_bytes += left.iter().map(|listed| listed.len).sum::<u64>();
    Ok(())
}

/// Returns about how long the parity of a pack of this length is.
pub(super) fn estimate(repository: &Repository, pack_len: u64) -> u64 {
    let layout = |percent| ParityLayout::new(pack_len, percent).ok();
    let layout = repository.config().parity_percent.and_then(layout);
    layout.map_or(0, |layout| layout.file_len())
}
