//! Verify: re-reads what is stored, and says what is damaged and whom that hurts.
//!
//! Packs first: what every pack really holds, or what those hold that the snapshots named need.
//! Then the recipe of every snapshot, each distinct node once: whether all it refers to is there
//! and whole. What is not where the index says is looked for in all packs, many ids in one pass.
//! Only where something is lost are the recipes walked again, to find every range of every disk
//! that it hurts.
//!
//! What cannot be read is damaged, whatever the system's reason: one bad sector ends no verify.
//! Only where this process lacks something (open files, memory), or nothing can be listed, it ends.

mod hurt;
mod nodes;
mod packs;
mod report;
mod stream;
mod trees;

use crate::id::SnapshotId;
use crate::pool::NoThread;
use crate::progress::{Cancel, Progress};
use crate::repository::{Contents, RepositoryError, Snapshot, SnapshotList};
use crate::storage::{Area, Name};

pub(crate) use packs::{Checker, PackFindings};
use report::Findings;
pub(crate) use report::describe;
pub use report::{Fault, FaultKind, Hurt, VerifyReport};

/// A verify that could not be carried out. Damage is no such failure: it is in the report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The repository cannot be reached.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A thread could not be started.
    #[error(transparent)]
    NoThread(#[from] NoThread),
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

/// What is verified, and how.
pub struct VerifyOptions<'o> {
    /// The snapshots that are verified, with the packs that they need and no others; `None` for
    /// all that are not forgotten, and every pack.
    pub snapshots: Option<Vec<SnapshotId>>,
    /// Whether packs' data is left unread: footers, recipes and documents only.
    pub metadata_only: bool,
    /// Percent of the packs whose data is read, chosen at random; 100 reads all.
    pub sample_percent: f64,
    /// Threads that read and decode; at least 1.
    pub threads: usize,
    /// Where counters go.
    pub progress: &'o Progress,
    /// Asked between frames.
    pub cancel: &'o Cancel,
}

/// Verifies a repository, or what some of its snapshots need.
///
/// `list` must have been read before `contents` was opened: a snapshot that was published since may
/// need packs that this session does not see.
pub fn verify(
    contents: &Contents,
    list: &SnapshotList,
    options: &VerifyOptions<'_>,
) -> Result<VerifyReport, VerifyError> {
    let mut findings = Findings::default();
    let wanted = |snapshot: &&Snapshot| match &options.snapshots {
        Some(ids) => ids.contains(&snapshot.id),
        None => snapshot.state.forgotten.is_none(),
    };
    let snapshots: Vec<&Snapshot> = list.snapshots.iter().filter(wanted).collect();
    documents(contents, list, options, &mut findings)?;
    let packs = match options.snapshots {
        Some(_) => trees::packs(contents, &snapshots, options.cancel, &mut findings)?,
        None => contents.packs().to_vec(),
    };
    packs::check(contents, &packs, options, &mut findings)?;
    trees::check(contents, &snapshots, options, &mut findings)?;
    if findings.hurts_any() {
        hurt::attribute(contents, &snapshots, options.cancel, &mut findings)?;
    }
    findings.report.snapshots = snapshots.len() as u64;
    Ok(findings.report)
}

/// Checks manifests, notes and key slots against their names, and decodes them. Of other snapshots
/// than those named, nothing is.
fn documents(
    contents: &Contents,
    list: &SnapshotList,
    options: &VerifyOptions<'_>,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let is_wanted = |id| {
        let named = options.snapshots.as_ref();
        named.is_none_or(|named| named.contains(&id))
    };
    for unreadable in list.unreadable.iter().filter(|it| is_wanted(it.id)) {
        findings.document(Name::Snapshot(unreadable.id), &unreadable.error);
    }
    let repository = contents.repository();
    let notes = repository.storage().list(Area::Notes);
    for listed in notes.map_err(RepositoryError::from)? {
        let Name::Note(snapshot, id) = listed.name else {
            continue;
        };
        if is_wanted(snapshot)
            && let Err(error) = repository.note(snapshot, id)
        {
            findings.document(listed.name, &error);
        }
    }
    for (id, error) in repository.damaged_key_slots()? {
        findings.document(Name::Key(id), &error);
    }
    Ok(())
}
