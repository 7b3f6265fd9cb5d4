//! Packs and their parity: rebuilds packs as far as their parity makes up for what is damaged, and
//! makes parity anew where it is missing or damaged.

use std::collections::BTreeSet;

use crate::format::parity::ParityLayout;
use crate::id::PackId;
use crate::pack::{Rebuild, make_parity, rebuild_pack};
use crate::repository::{Repository, RepositoryError};
use crate::storage::{Name, Session};

use super::{DamagedPack, RepairError, RepairOptions, RepairReport};

/// Rebuilds the damaged packs of the report, as far as parity allows; those come to `rebuilt`. Then
/// makes the parity anew that the report names.
///
/// Needs no writer to be away: a pack gets back the bytes that its name stands for.
///
/// # Durability
///
/// On return all that was made is durable. A crash leaves every pack as it was, or rebuilt.
pub(super) fn heal(
    repository: &Repository,
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    let Some(percent) = repository.config().parity_percent else {
        return Ok(());
    };
    let session = repository.open_writer("repair")?;
    for mut pack in std::mem::take(&mut report.damaged) {
        match rebuild(repository, &*session, pack.id, options)? {
            Ok(()) => report.rebuilt.push(pack),
            Err(why) => {
                pack.problem = format!("{}; parity does not heal it: {why}", pack.problem);
                report.damaged.push(pack);
            }
        }
    }
    if options.packs.is_none() {
        for pack in missing(repository)? {
            // Most often a collection deleted it, and was interrupted.
            if rebuild(repository, &*session, pack, options)?.is_ok() {
                report.rebuilt.push(DamagedPack {
                    id: pack,
                    problem: "it was gone".to_owned(),
                    is_readable: false,
                    bad: Vec::new(),
                });
            }
        }
    }
    renew(repository, &*session, percent, options, report)
}

/// Returns the packs of which nothing but parity is left.
fn missing(repository: &Repository) -> Result<Vec<PackId>, RepairError> {
    let left = repository.parity_left(&BTreeSet::new());
    let left = left.map_err(RepositoryError::from)?.into_iter();
    let missing = left.filter_map(|listed| match listed.name {
        Name::Parity(id) => Some(id),
        _ => None,
    });
    Ok(missing.collect())
}

/// Rebuilds one pack; returns why, where that cannot be done.
fn rebuild(
    repository: &Repository,
    session: &dyn Session,
    pack: PackId,
    options: &RepairOptions<'_>,
) -> Result<Result<(), String>, RepairError> {
    if options.cancel.is_cancelled() {
        return Err(RepairError::Cancelled);
    }
    let storage = repository.storage();
    match rebuild_pack(storage, session.id(), pack)? {
        Rebuild::Done(rebuilt) => Ok(Ok(rebuilt.publish(storage)?)),
        Rebuild::Not(why) => Ok(Err(why)),
    }
}

/// Makes the parity anew that the report names, of packs that are whole now; others leave it.
fn renew(
    repository: &Repository,
    session: &dyn Session,
    percent: u8,
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    let storage = repository.storage();
    let damaged: BTreeSet<PackId> = report.damaged.iter().map(|pack| pack.id).collect();
    report.renewed_parity.retain(|pack| !damaged.contains(pack));
    report.renewed_parity.sort_unstable();
    for pack in &report.renewed_parity {
        if options.cancel.is_cancelled() {
            return Err(RepairError::Cancelled);
        }
        let len = storage.len(&Name::Pack(*pack));
        let layout = ParityLayout::new(len.map_err(RepositoryError::from)?, percent);
        let layout = layout.expect("a pack that is whole keeps to the limits of the format");
        make_parity(storage, session.id(), *pack, layout)?;
        report.written_bytes += layout.file_len();
    }
    Ok(())
}
