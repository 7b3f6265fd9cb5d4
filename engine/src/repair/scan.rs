//! Reads packs, and says what is damaged in which.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::format::pack::PackKind;
use crate::id::{ContentId, PackId};
use crate::pool;
use crate::progress::Progress;
use crate::repository::{Contents, RepositoryError};
use crate::storage::{Name, StorageError};
use crate::verify::{Checker, PackFindings, VerifyError, VerifyOptions, describe};

use super::{RepairError, RepairOptions, RepairReport};

/// A pack that is not what its name or its footer says.
#[derive(Debug, Clone)]
pub struct DamagedPack {
    /// Its name.
    pub id: PackId,
    /// What is wrong with it, for people.
    pub problem: String,
    /// Whether its footer can be read. Without one nobody knows where anything in it begins.
    pub is_readable: bool,
    /// The contents in it that are damaged.
    pub bad: Vec<ContentId>,
}

/// Reads the packs asked for, and those in which copies of what is damaged lie.
pub(super) fn scan(
    contents: &Contents,
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<Vec<DamagedPack>, RepairError> {
    let mut queue = match &options.packs {
        Some(packs) => {
            check_there(contents, packs)?;
            packs.clone()
        }
        None => contents.packs().to_vec(),
    };
    let mut seen = HashSet::new();
    let mut damaged = Vec::new();
    while !queue.is_empty() {
        queue.retain(|pack| seen.insert(*pack));
        let found = read(contents, &queue, options, report)?;
        queue = copies(contents, &found, &seen, report)?;
        damaged.extend(found);
    }
    damaged.sort_by_key(|pack: &DamagedPack| pack.id);
    Ok(damaged)
}

fn check_there(contents: &Contents, packs: &[PackId]) -> Result<(), RepairError> {
    let listed = contents.packs();
    match packs.iter().find(|pack| !listed.contains(pack)) {
        Some(pack) => Err(RepositoryError::from(StorageError::NotFound(Name::Pack(*pack))).into()),
        None => Ok(()),
    }
}

fn read(
    contents: &Contents,
    packs: &[PackId],
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<Vec<DamagedPack>, RepairError> {
    let storage = contents.repository().storage();
    for pack in packs {
        let len = storage.len(&Name::Pack(*pack)).unwrap_or(0);
        Progress::add(&options.progress.total_bytes, len);
    }
    let checks = VerifyOptions {
        snapshots: None,
        metadata_only: false,
        sample_percent: 100.0,
        max_duration: None,
        now: Timestamp::now(),
        threads: options.threads,
        progress: options.progress,
        cancel: options.cancel,
    };
    let found = Mutex::new((0, 0, Vec::new(), Vec::new()));
    let items = packs.iter().map(Ok::<_, VerifyError>);
    pool::for_each(options.threads, "repair", items, || {
        let mut checker = Checker::new(contents, &checks);
        let found = &found;
        move |pack: &PackId| {
            let findings = checker.pack(*pack, true)?;
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.0 += 1;
            found.1 += findings.checked_bytes;
            found.3.extend(findings.lacks_parity().then_some(*pack));
            found.2.extend(damage(*pack, findings));
            Ok(())
        }
    })?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (packs, bytes, damaged, without_parity) = found;
    report.renewed_parity.extend(without_parity);
    report.packs += packs;
    report.checked_bytes += bytes;
    Ok(damaged)
}

fn damage(id: PackId, found: PackFindings) -> Option<DamagedPack> {
    if found.is_gone || (found.unreadable.is_none() && found.faults == 0) {
        return None;
    }
    let untold = found.faults.saturating_sub(found.told.len());
    let mut told = found.told;
    if untold > 0 {
        told.push(format!("and {untold} more"));
    }
    let problem = found.unreadable.as_ref().map(|error| describe(error));
    Some(DamagedPack {
        id,
        problem: problem.unwrap_or_else(|| told.join("; ")),
        is_readable: found.unreadable.is_none(),
        bad: found.bad_contents,
    })
}

/// Counts what is whole in another pack. Of the rest, returns the packs that should have it and
/// were not read: they are damaged too.
fn copies(
    contents: &Contents,
    damaged: &[DamagedPack],
    seen: &HashSet<PackId>,
    report: &mut RepairReport,
) -> Result<Vec<PackId>, RepairError> {
    let mut kinds: HashMap<ContentId, PackKind> = HashMap::new();
    for pack in damaged.iter().filter(|pack| !pack.bad.is_empty()) {
        let kind = contents.footer(pack.id)?.header().kind;
        kinds.extend(pack.bad.iter().map(|id| (*id, kind)));
    }
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    let keys = contents.repository().keys();
    let mut copies = contents.copies(&kinds.keys().copied().collect())?;
    let mut next = Vec::new();
    for (id, kind) in kinds {
        let hash = |bytes: &[u8]| keys.content_id(kind, bytes);
        match contents.whole_copy(id, &mut copies, &mut None, hash) {
            Ok(Some(_)) => report.copied += 1,
            Ok(None) | Err(_) => next.extend(
                (copies.of(id).iter())
                    .map(|(pack, _)| *pack)
                    .filter(|pack| !seen.contains(pack)),
            ),
        }
    }
    Ok(next)
}
