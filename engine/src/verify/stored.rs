//! Stored bytes against the names that are their hashes: needs no key, and no index.
//!
//! It finds what decayed, and cannot find what is missing: what refers to what is sealed. Nothing
//! is written to the repository, no session either: what a collection takes meanwhile is passed
//! over.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::VerifyError;
use super::parity::parity;
use super::report::{FaultKind, Findings, VerifyReport, describe};
use super::stream::Stream;
use super::turn::Turn;
use crate::id::PackId;
use crate::limits::{MANIFEST_LEN_MAX, MIB, SMALL_DOCUMENT_LEN_MAX};
use crate::pack::{PackError, ParityState};
use crate::pool;
use crate::progress::{Cancel, Progress};
use crate::repository::{
    Condition, Depth, OpenOptions, RepositoryError, check_encryption, read_config,
};
use crate::storage::{Area, Name, SharedStorage, StorageError};

/// How stored bytes are verified.
pub struct StoredOptions<'o> {
    /// How long packs are read at most, as in [`super::VerifyOptions`].
    pub max_duration: Option<Duration>,
    /// The time, by which this client remembers what was read.
    pub now: Timestamp,
    /// Threads that read; at least 1.
    pub threads: usize,
    /// Where counters go.
    pub progress: &'o Progress,
    /// Asked now and then.
    pub cancel: &'o Cancel,
}

/// Compares the stored bytes of every pack, manifest, note and key slot with its name.
///
/// No key is needed, and nothing is decoded. `options` tell where this client remembers what was
/// read; the `config` that says which repository it is must be readable, and is not authenticated.
pub fn verify_stored(
    storage: &SharedStorage,
    open: &OpenOptions,
    options: &StoredOptions<'_>,
) -> Result<VerifyReport, VerifyError> {
    let (_, config) = read_config(&**storage)?;
    check_encryption(&**storage, open, &config)?;
    let percent = config.parity_percent;
    let file = open.readings_file(&**storage, config.repository_id);
    let (depth, now) = (Depth::Stored, options.now);
    let turn = Turn::begin(&**storage, &file, depth, now, options.max_duration);
    let turn = turn.map_err(RepositoryError::from)?;
    let mut packs = turn.packs().to_vec();
    turn.order(&mut packs);
    let checked = check(storage, &packs, percent, &turn, options);
    let coverage = turn.end(&packs);
    let mut report = checked?;
    report.coverage = coverage;
    Ok(report)
}

fn check(
    storage: &SharedStorage,
    packs: &[PackId],
    percent: Option<u8>,
    turn: &Turn,
    options: &StoredOptions<'_>,
) -> Result<VerifyReport, VerifyError> {
    let mut findings = Findings::default();
    for (area, limit) in [
        (Area::Keys, SMALL_DOCUMENT_LEN_MAX),
        (Area::Snapshots, MANIFEST_LEN_MAX),
        (Area::Notes, SMALL_DOCUMENT_LEN_MAX),
    ] {
        for listed in storage.list(area).map_err(RepositoryError::from)? {
            if options.cancel.is_cancelled() {
                return Err(VerifyError::Cancelled);
            }
            document(storage, listed.name, limit, &mut findings)?;
        }
    }
    for pack in packs {
        Progress::add(&options.progress.total_bytes, turn.len(*pack));
    }
    let found = Mutex::new(findings);
    let items = packs.iter().map(|pack| Ok(*pack));
    pool::for_each(options.threads, "verify", items, || {
        let found = &found;
        let mut buf = Vec::new();
        move |pack| {
            let Some(_leave) = turn.take() else {
                return Ok(());
            };
            let mut stream = Stream::new(storage, pack, options.progress);
            if percent.is_some() {
                stream = stream.with_checks(pack);
            }
            let damage = match read(&mut stream, turn.len(pack), &mut buf, options.cancel)? {
                Ok(()) if stream.has_name(pack) => None,
                Ok(()) => Some("its bytes do not have the hash that is its name".to_owned()),
                // A collection took it.
                Err(error) if error.is_gone() => return Ok(()),
                Err(error) => Some(describe(&error)),
            };
            let read_bytes = stream.read_bytes();
            let checks = stream.checks().filter(|_| damage.is_none());
            let state = percent.map(|percent| parity(storage, pack, percent, checks.as_ref()));
            let state = state.transpose()?.unwrap_or(ParityState::Whole);
            let is_bad = matches!(state, ParityState::Damaged(_));
            let condition = match damage {
                Some(_) => Condition::Damaged,
                None if is_bad => Condition::BadParity,
                None => Condition::Whole,
            };
            turn.read(pack, condition);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.report.packs += 1;
            found.report.checked_bytes += read_bytes;
            found.parity(pack, &state);
            if let Some(damage) = damage {
                found.pack(pack, FaultKind::Pack, &damage);
            }
            Ok::<(), VerifyError>(())
        }
    })?;
    let findings = found.into_inner();
    Ok(findings.unwrap_or_else(PoisonError::into_inner).report)
}

/// Reads a pack of `len` bytes to its end. What cannot be read is damage, unless this process lacks
/// something.
fn read(
    stream: &mut Stream<'_>,
    len: u64,
    buf: &mut Vec<u8>,
    cancel: &Cancel,
) -> Result<Result<(), PackError>, VerifyError> {
    let mut at = 0;
    while at < len {
        if cancel.is_cancelled() {
            return Err(VerifyError::Cancelled);
        }
        at = len.min(at + MIB);
        match stream.read(buf, at) {
            Ok(()) => {}
            Err(error) if error.is_shortage() => return Err(RepositoryError::from(error).into()),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

/// Compares a document with its name.
fn document(
    storage: &SharedStorage,
    name: Name,
    limit: u64,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let hash = match &name {
        Name::Snapshot(id) => id.as_bytes(),
        Name::Note(_, id) => id.as_bytes(),
        Name::Key(id) => id.as_bytes(),
        Name::Pack(_) | Name::Parity(_) | Name::Config | Name::GcPlan => return Ok(()),
    };
    match storage.read(&name, limit) {
        Ok(stored) if blake3::hash(&stored) == *hash => {}
        Ok(_) => findings.document(name, &RepositoryError::NameMismatch { object: name }),
        Err(StorageError::NotFound(_)) => return Ok(()),
        Err(error) if error.is_shortage() => return Err(RepositoryError::from(error).into()),
        Err(error) => findings.document(name, &error),
    }
    findings.report.documents += 1;
    Ok(())
}
