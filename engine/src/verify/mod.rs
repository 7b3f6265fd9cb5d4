//! Verify: re-reads what is stored, and says what is damaged and whom that hurts.
//!
//! Packs first: what every pack really holds, or what those hold that the snapshots named need.
//! Then the recipe of every snapshot, each distinct node once: whether all it refers to is there
//! and whole. What is not where the index says is looked for in all packs, many ids in one pass.
//! Only where something is lost are the recipes walked again, to find every range of every disk
//! that it hurts; and where packs came or went meanwhile, a fresh reader reads these ranges once
//! more: a collection may have moved what was looked for.
//!
//! What cannot be read is damaged, whatever the system's reason: one bad sector ends no verify.
//! Only where this process lacks something (open files, memory), or nothing can be listed, it ends.

mod again;
mod hurt;
mod nodes;
mod packs;
mod parity;
mod report;
mod run;
mod stored;
mod stream;
mod trees;
mod turn;

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::id::SnapshotId;
use crate::pool::NoThread;
use crate::progress::{Cancel, Progress};
use crate::repository::{Contents, Depth, RepositoryError, Snapshot, SnapshotList};

pub(crate) use packs::{Checker, PackFindings};
pub(crate) use report::describe;
pub use report::{Fault, FaultKind, Hurt, VerifyReport};
use run::Verification;
pub use stored::{StoredOptions, verify_stored};
pub use turn::Coverage;
use turn::Turn;

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
    /// How long packs are read at most: the one that is read then is read to its end. `None` reads
    /// them all.
    pub max_duration: Option<Duration>,
    /// The time, by which this client remembers what was read.
    pub now: Timestamp,
    /// Threads that read and decode; at least 1.
    pub threads: usize,
    /// Where counters go.
    pub progress: &'o Progress,
    /// Asked between frames.
    pub cancel: &'o Cancel,
}

/// Verifies a repository, or what some of its snapshots need. Packs that were not read for longest
/// come first; what was read is remembered, even where the verify fails later.
///
/// `list` must have been read before `contents` was opened: a snapshot that was published since may
/// need packs that this session does not see.
pub fn verify(
    contents: &Contents,
    list: &SnapshotList,
    options: &VerifyOptions<'_>,
) -> Result<VerifyReport, VerifyError> {
    let wanted = |snapshot: &&Snapshot| match &options.snapshots {
        Some(ids) => ids.contains(&snapshot.id),
        None => snapshot.state.forgotten.is_none(),
    };
    let repository = contents.repository();
    let (file, storage) = (repository.readings_file(), repository.storage());
    let (depth, now) = (Depth::Plain, options.now);
    let turn = Turn::begin(&**storage, &file, depth, now, options.max_duration);
    let turn = turn.map_err(RepositoryError::from)?;
    let verification = Verification {
        contents,
        list,
        snapshots: list.snapshots.iter().filter(wanted).collect(),
        options,
        turn: &turn,
    };
    let mut packs = Vec::new();
    let verified = verification.run(&mut packs);
    let coverage = turn.end(&packs);
    let mut report = verified?.report;
    report.snapshots = verification.snapshots.len() as u64;
    report.coverage = coverage;
    report.whole = whole(&verification.snapshots, options, &report);
    Ok(report)
}

/// Returns the snapshots that were read whole without a finding: all that no fault hurts, where
/// everything was read.
fn whole(
    snapshots: &[&Snapshot],
    options: &VerifyOptions<'_>,
    report: &VerifyReport,
) -> Vec<SnapshotId> {
    let coverage = &report.coverage;
    let is_all_read = !options.metadata_only
        && options.sample_percent >= 100.0
        && !report.is_cut
        && coverage.read_packs >= coverage.packs;
    let hurts = report.faults.iter().flat_map(|fault| &fault.hurts);
    let hurt: HashSet<SnapshotId> = hurts.map(|hurt| hurt.snapshot).collect();
    let ids = snapshots.iter().map(|snapshot| snapshot.id);
    ids.filter(|id| is_all_read && !hurt.contains(id)).collect()
}
