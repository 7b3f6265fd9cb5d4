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
mod readings;
mod report;
mod stored;
mod stream;
mod trees;
mod turn;

use std::time::Duration;

use jiff::Timestamp;

use crate::id::{PackId, SnapshotId};
use crate::pool::NoThread;
use crate::progress::{Cancel, Progress};
use crate::repository::{Contents, RepositoryError, Snapshot, SnapshotList};
use crate::storage::{Area, Name};

use packs::Part;
use readings::Depth;
use report::Findings;
pub use report::{Fault, FaultKind, Hurt, VerifyReport};
pub use stored::{StoredOptions, verify_stored};
use turn::Turn;
pub use turn::Coverage;

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
    Ok(report)
}

/// A verify at work.
struct Verification<'v> {
    contents: &'v Contents,
    list: &'v SnapshotList,
    snapshots: Vec<&'v Snapshot>,
    options: &'v VerifyOptions<'v>,
    turn: &'v Turn,
}

impl Verification<'_> {
    fn run(&self, packs: &mut Vec<PackId>) -> Result<Findings, VerifyError> {
        let (contents, options) = (self.contents, self.options);
        let mut findings = Findings::default();
        *packs = match options.snapshots {
            Some(_) => trees::packs(contents, &self.snapshots, options.cancel, &mut findings)?,
            None => contents.packs().to_vec(),
        };
        self.turn.order(packs);
        documents(contents, self.list, options, &mut findings)?;
        match self.turn.half() {
            None => {
                let found = packs::check(contents, packs, Part::Everything, options, self.turn)?;
                found.add(contents, &mut findings);
                trees::check(contents, &self.snapshots, options, None, &mut findings)?;
            }
            Some(_) => findings = self.in_time(packs, findings)?,
        }
        if findings.hurts_any() {
            hurt::attribute(contents, &self.snapshots, options.cancel, &mut findings)?;
        }
        Ok(findings)
    }

    /// Looks at all but data first: it takes little, and finds what is missing. Data is read in what
    /// is left of the time. Where it is damaged, finding whom that hurts takes what it takes.
    fn in_time(&self, packs: &[PackId], mut early: Findings) -> Result<Findings, VerifyError> {
        let (contents, options, turn) = (self.contents, self.options, self.turn);
        let mut found = packs::check(contents, packs, Part::Footers, options, turn)?;
        found.add(contents, &mut early);
        let is_whole = found.len() == packs.len()
            && trees::check(contents, &self.snapshots, options, turn.half(), &mut early)?;
        let was_damaged = found.has_faults();

        let readable: Vec<PackId> = packs
            .iter()
            .copied()
            .filter(|pack| !found.is_lost(*pack))
            .collect();
        let data = packs::check(contents, &readable, Part::Data, options, turn)?;
        if !data.has_faults() && (is_whole || !was_damaged) {
            data.count(&mut early.report);
            early.report.is_cut = !is_whole;
            return Ok(early);
        }
        let mut findings = Findings::default();
        documents(contents, self.list, options, &mut findings)?;
        found.extend(data);
        found.add(contents, &mut findings);
        trees::check(contents, &self.snapshots, options, None, &mut findings)?;
        findings.report.is_cut = found.len() < packs.len();
        Ok(findings)
    }
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
