//! Repair: takes what is whole out of damaged packs, sets these aside, and fetches what is lost
//! from wherever it may still be had.
//!
//! ```text
//! documents manifests and notes that are damaged are put back, where a donor has them whole
//! index     thrown away, and built anew from the footers of all packs
//! scan      every pack is read: which contents are damaged in which pack
//! parity    packs are rebuilt from their parity, where they have any and it is enough
//! salvage   what is whole in a damaged pack goes into new packs, durably
//! aside     damaged packs leave `packs/`; what was damaged in them is absent from now on
//! heal      what snapshots need and no pack has is looked for with the donors, and stored anew
//! ```
//!
//! Everything that is stored was compared with its id. Nothing is deleted. What is absent is stored
//! anew by whichever backup sees it next. `docs/concurrency.md` argues why no step loses a byte.

mod documents;
mod donor;
mod error;
mod heal;
mod index;
mod options;
mod parity;
mod rebuild;
mod salvage;
mod scan;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use crate::gc::writers_at_work;
use crate::progress::Progress;
use crate::repository::{Access, Contents, Repository, RepositoryError};
use crate::storage::Name;
use crate::verify::{VerifyOptions, verify};

pub use donor::{DiskDonor, Donor, RepositoryDonor};
pub use error::RepairError;
pub use index::rebuild_index;
pub use options::{AbsentSnapshot, RepairOptions, RepairReport};
pub use scan::DamagedPack;

/// Repairs a repository.
///
/// # Errors
///
/// [`RepairError::Writers`] while writers are at work, before anything was done. Those that come
/// later are in the report.
pub fn repair(
    repository: &Arc<Repository>,
    options: &RepairOptions<'_>,
) -> Result<RepairReport, RepairError> {
    let lock = repository.lock_collection()?;
    let storage = repository.storage();
    storage
        .clear_dead_sessions()
        .map_err(RepositoryError::from)?;
    let writers = writers_at_work(repository, &[])?;
    if !writers.is_empty() {
        return Err(RepairError::Writers(writers));
    }
    repository.cancel_plan(&lock)?;
    let mut report = RepairReport::default();
    documents::heal(repository, options, &mut report)?;
    report.absent = documents::absent(repository, options.donors)?;
    report.rebuilt_index = options.packs.is_none() && Contents::discard_index(repository)?;
    let contents = Contents::open(repository, Access::Upkeep, "repair")?;
    report.damaged = scan::scan(&contents, options, &mut report)?;
    parity::heal(repository, options, &mut report)?;
    if !report.damaged.is_empty() {
        set_aside(&contents, options, &mut report)?;
        if !report.is_set_aside {
            return Ok(report);
        }
    }
    drop(contents);
    heal_all(repository, options, &mut report)?;
    Ok(report)
}

/// Moves what is whole out of the damaged packs, then moves them out of the way.
fn set_aside(
    contents: &Contents,
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    let repository = contents.repository();
    let session = repository.open_writer("repair")?;
    salvage::salvage(contents, &*session, options, report)?;
    report.waiting_for = writers_at_work(repository, &[session.id()])?;
    if !report.waiting_for.is_empty() {
        return Ok(());
    }
    for pack in &report.damaged {
        let aside = repository.storage().set_aside(&Name::Pack(pack.id));
        aside.map_err(RepositoryError::from)?;
    }
    report.is_set_aside = true;
    Ok(())
}

/// Looks for what is lost, and heals it, until nothing is lost or nobody has it: a node that comes
/// back may show that more is lost below it.
fn heal_all(
    repository: &Arc<Repository>,
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    loop {
        let list = repository.snapshots()?;
        let contents = Contents::open(repository, Access::Write, "repair")?;
        let contents = Arc::new(contents);
        let all: BTreeSet<_> = list.snapshots.iter().map(|it| it.id).collect();
        let found = verify(
            &contents,
            &list,
            &VerifyOptions {
                snapshots: Some(all.into_iter().collect()),
                metadata_only: true,
                sample_percent: 100.0,
                max_duration: None,
                now: Timestamp::now(),
                threads: options.threads,
                progress: &Progress::default(),
                cancel: options.cancel,
            },
        )?;
        report.remaining = found.faults;
        documents::add_remaining(repository, &list, &mut report.remaining)?;
        let is_hurt = report.remaining.iter().any(|fault| !fault.hurts.is_empty());
        if !is_hurt || options.donors.is_empty() {
            return Ok(());
        }
        if heal::heal(&contents, &list.snapshots, options, report)? == 0 {
            return Ok(());
        }
    }
}
