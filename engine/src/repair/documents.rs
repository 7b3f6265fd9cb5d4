//! Manifests and notes whose stored bytes do not have the hash that is their name: put back from a
//! donor that has them whole.
//!
//! The path of such a document is the hash of its stored bytes, so that a donor's bytes prove
//! themselves: only what was there before comes back. What is not there at all stays away: it may
//! have been forgotten and collected.

use std::collections::HashSet;

use crate::limits::{MANIFEST_LEN_MAX, SMALL_DOCUMENT_LEN_MAX};
use crate::repository::{Repository, RepositoryError, SnapshotList};
use crate::storage::{Area, Existing, Name, Session, StorageError};
use crate::verify::{Fault, FaultKind, describe};

use super::donor::{Donor, RepositoryDonor};
use super::{AbsentSnapshot, RepairError, RepairOptions, RepairReport};

/// A document whose name is the hash of its stored bytes.
#[derive(Clone, Copy)]
pub(super) struct Named {
    pub(super) name: Name,
    /// Longest that it may be.
    pub(super) limit: u64,
    hash: [u8; 32],
}

impl Named {
    fn of(name: Name) -> Option<Self> {
        let (hash, limit) = match name {
            Name::Snapshot(id) => (*id.as_bytes(), MANIFEST_LEN_MAX),
            Name::Note(_, id) => (*id.as_bytes(), SMALL_DOCUMENT_LEN_MAX),
            Name::Pack(_) | Name::Parity(_) | Name::Config | Name::Key(_) | Name::GcPlan => {
                return None;
            }
        };
        Some(Self { name, limit, hash })
    }

    pub(super) fn is_whole(&self, stored: &[u8]) -> bool {
        blake3::hash(stored) == self.hash
    }
}

/// A document that is damaged.
struct Damaged {
    object: Named,
    error: RepositoryError,
}

/// Puts damaged manifests and notes back, as far as donors have them.
///
/// What was damaged is kept below `damaged/`. At no moment is there nothing under the name: a
/// snapshot without a manifest is none, and a collection would take what it needs.
///
/// # Durability
///
/// On return what was put back is durable.
pub(super) fn heal(
    repository: &Repository,
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    let damaged = damaged(repository)?;
    if damaged.is_empty() {
        return Ok(());
    }
    let session = repository.open_writer("repair")?;
    for document in damaged {
        if options.cancel.is_cancelled() {
            return Err(RepairError::Cancelled);
        }
        let name = document.object.name;
        let donors = &mut repositories(options.donors);
        if let Some(whole) = donors.find_map(|donor| donor.stored(document.object)) {
            put_back(repository, &*session, &document, &whole)?;
            report.healed_documents.push(name);
        }
    }
    Ok(())
}

fn repositories(donors: &[Donor]) -> impl Iterator<Item = &RepositoryDonor> {
    donors.iter().filter_map(|donor| match donor {
        Donor::Repository(donor) => Some(donor),
        Donor::Disk(_) => None,
    })
}

fn damaged(repository: &Repository) -> Result<Vec<Damaged>, RepairError> {
    let mut found = Vec::new();
    for area in [Area::Snapshots, Area::Notes] {
        let listed = repository.storage().list(area);
        for listed in listed.map_err(RepositoryError::from)? {
            if let Some(object) = Named::of(listed.name) {
                found.extend(damage(repository, object)?);
            }
        }
    }
    Ok(found)
}

fn damage(repository: &Repository, object: Named) -> Result<Option<Damaged>, RepairError> {
    let error = match repository.storage().read(&object.name, object.limit) {
        Ok(stored) if object.is_whole(&stored) => return Ok(None),
        Ok(_) => RepositoryError::NameMismatch {
            object: object.name,
        },
        Err(StorageError::NotFound(_)) => return Ok(None),
        Err(error) if error.is_shortage() => return Err(RepositoryError::from(error).into()),
        Err(error) => error.into(),
    };
    Ok(Some(Damaged { object, error }))
}

fn put_back(
    repository: &Repository,
    session: &dyn Session,
    document: &Damaged,
    whole: &[u8],
) -> Result<(), RepositoryError> {
    let (storage, name) = (repository.storage(), &document.object.name);
    storage.keep_aside(session.id(), name)?;
    Ok(storage.put(session.id(), name, whole, Existing::Replace)?)
}

/// Adds the documents that are damaged still, unless they are named already.
pub(super) fn add_remaining(
    repository: &Repository,
    list: &SnapshotList,
    remaining: &mut Vec<Fault>,
) -> Result<(), RepairError> {
    let mut known: HashSet<String> = remaining.iter().map(|it| it.object.clone()).collect();
    let mut add = |name: Name, error: &RepositoryError| {
        if known.insert(name.path()) {
            remaining.push(Fault {
                object: name.path(),
                kind: FaultKind::Document,
                message: describe(error),
                hurts: Vec::new(),
            });
        }
    };
    let unreadable = list.unreadable.iter();
    for snapshot in unreadable.filter(|it| !it.error.is_unsupported()) {
        add(Name::Snapshot(snapshot.id), &snapshot.error);
    }
    for document in damaged(repository)? {
        add(document.object.name, &document.error);
    }
    Ok(())
}

/// Returns the snapshots of this repository that donors have and that are not here: deleted here,
/// or made there.
pub(super) fn absent(
    repository: &Repository,
    donors: &[Donor],
) -> Result<Vec<AbsentSnapshot>, RepairError> {
    let listed = repository.storage().list(Area::Snapshots);
    let here: HashSet<Name> = (listed.map_err(RepositoryError::from)?.iter())
        .map(|listed| listed.name)
        .collect();
    let is_here = |id| here.contains(&Name::Snapshot(id));
    let mut absent = Vec::new();
    for donor in repositories(donors) {
        absent.extend(
            (donor.more(repository, is_here)).map(|snapshot| AbsentSnapshot {
                id: snapshot.id,
                vm: snapshot.manifest.vm.clone(),
                time: snapshot.manifest.time,
                donor: donor.location(),
            }),
        );
    }
    Ok(absent)
}
