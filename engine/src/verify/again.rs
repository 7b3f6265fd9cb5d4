//! A second look at what is lost, where packs or snapshots came or went during the first: a
//! collection that moves content hides it from whoever reads the packs that it leaves, and takes
//! snapshots that were forgotten meanwhile. What a reader who comes now can read is not lost.

use std::collections::HashSet;
use std::ops::Range;

use super::packs::{self, Part};
use super::report::{Fault, FaultKind, Findings, Hurt};
use super::trees::recipes;
use super::turn::Turn;
use super::{VerifyError, VerifyOptions};
use crate::chunker::ChunkRef;
use crate::format::manifest::RecipeOf;
use crate::id::PackId;
use crate::recipe::{Recipe, Shape};
use crate::repository::{Access, Contents, Fetcher, Repository, RepositoryError, Snapshot};
use crate::storage::{Area, Name, StorageError};

/// Chunks that are read at once.
const BATCH: usize = 4096;

/// Takes back what a fresh reader does not find. `began` are the packs that were there when verify
/// began.
pub(super) fn look_again(
    contents: &Contents,
    began: &[PackId],
    snapshots: &[&Snapshot],
    options: &VerifyOptions<'_>,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let repository = contents.repository();
    let listed = repository.storage().list(Area::Packs);
    let listed = listed.map_err(RepositoryError::from)?;
    let listed: HashSet<Name> = listed.into_iter().map(|listed| listed.name).collect();
    let began: HashSet<Name> = began.iter().copied().map(Name::Pack).collect();
    let mut hurt = findings.report.faults.iter().flat_map(|fault| &fault.hurts);
    if began == listed && hurt.all(|hurt| !is_gone(repository, hurt)) {
        return Ok(());
    }
    let fresh = Contents::open(repository, Access::Read(Vec::new()), "verify")?;
    let paths: HashSet<String> = listed.iter().map(Name::path).collect();
    let mut faults = std::mem::take(&mut findings.report.faults);
    for fault in &mut faults {
        let hurts = std::mem::take(&mut fault.hurts);
        for hurt in hurts {
            fault.hurts.extend(still(&fresh, snapshots, hurt, options)?);
        }
    }
    faults.retain(|fault| !fault.hurts.is_empty() || is_there(fault, &paths));
    findings.report.faults = faults;
    Ok(())
}

/// Compares the index once more, opened anew: a repair may have thrown away the one that was open.
pub(super) fn look_at_index(
    contents: &Contents,
    options: &VerifyOptions<'_>,
    turn: &Turn,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let repository = contents.repository();
    let fresh = Contents::open(repository, Access::Read(Vec::new()), "verify")?;
    let found = packs::check(&fresh, &fresh.packs(), Part::Footers, options, turn)?;
    let faults = &mut findings.report.faults;
    faults.retain(|fault| fault.kind != FaultKind::Index);
    found.add_index(&fresh, findings);
    Ok(())
}

/// Returns whether a fault that hurts nobody is one: of what is there.
fn is_there(fault: &Fault, packs: &HashSet<String>) -> bool {
    match fault.kind {
        FaultKind::Document | FaultKind::Index => true,
        FaultKind::Pack | FaultKind::Content => packs.contains(&fault.object),
        FaultKind::Parity => packs.contains(&fault.object.replacen("parity", "packs", 1)),
        FaultKind::Missing => false,
    }
}

/// Returns whether a snapshot was forgotten meanwhile, and taken: nobody is hurt.
fn is_gone(repository: &Repository, hurt: &Hurt) -> bool {
    let manifest = repository.storage().len(&Name::Snapshot(hurt.snapshot));
    matches!(manifest, Err(StorageError::NotFound(_)))
}

/// Returns what of a range is still hurt.
fn still(
    fresh: &Contents,
    snapshots: &[&Snapshot],
    hurt: Hurt,
    options: &VerifyOptions<'_>,
) -> Result<Vec<Hurt>, VerifyError> {
    let is_same = |snapshot: &Snapshot, recipe: &RecipeOf<'_>| {
        (snapshot.id, recipe.name, recipe.is_file) == (hurt.snapshot, &hurt.target, hurt.is_file)
    };
    let found = recipes(fresh, snapshots).find(|(snapshot, recipe, _)| is_same(snapshot, recipe));
    let Some((_, recipe, shape)) = found else {
        return Ok(vec![hurt]);
    };
    let lost = lost(fresh, shape, &recipe, hurt.range.clone(), options)?;
    if is_gone(fresh.repository(), &hurt) {
        return Ok(Vec::new());
    }
    let part = |range| Hurt {
        range,
        ..hurt.clone()
    };
    Ok(lost.into_iter().map(part).collect())
}

/// Returns what of a range of a disk cannot be read.
fn lost(
    fresh: &Contents,
    shape: Shape,
    recipe: &RecipeOf<'_>,
    range: Range<u64>,
    options: &VerifyOptions<'_>,
) -> Result<Vec<Range<u64>>, VerifyError> {
    let mut fetcher = Fetcher::default();
    let mut lost: Vec<Range<u64>> = Vec::new();
    let mut batch: Vec<ChunkRef> = Vec::new();
    let mut at = range.start;
    let mut chunks = Recipe::new(fresh, shape, recipe.root).chunks_in(range.clone());
    loop {
        if options.cancel.is_cancelled() {
            return Err(VerifyError::Cancelled);
        }
        let next = chunks.next();
        if let Some(Ok(chunk)) = &next {
            at = chunk.end();
            batch.push(*chunk);
        }
        if batch.len() >= BATCH || !matches!(next, Some(Ok(_))) {
            for chunk in unreadable(fresh, &batch, &mut fetcher)? {
                match lost.last_mut() {
                    Some(last) if last.end == chunk.offset => last.end = chunk.end(),
                    _ => lost.push(chunk.offset..chunk.end()),
                }
            }
            batch.clear();
        }
        match next {
            Some(Ok(_)) => {}
            // What is behind it is not known.
            Some(Err(_)) => {
                lost.push(at.min(range.end)..range.end);
                return Ok(lost);
            }
            None => return Ok(lost),
        }
    }
}

/// Returns those of some chunks that cannot be read.
fn unreadable(
    fresh: &Contents,
    chunks: &[ChunkRef],
    fetcher: &mut Fetcher,
) -> Result<Vec<ChunkRef>, RepositoryError> {
    let mut fetch = |chunks: &[ChunkRef]| {
        let read: Result<(), RepositoryError> = fresh.fetch(chunks, fetcher, &mut |_, _| Ok(()));
        read
    };
    if fetch(chunks).is_ok() {
        return Ok(Vec::new());
    }
    let mut bad = Vec::new();
    for chunk in chunks {
        match fetch(std::slice::from_ref(chunk)) {
            Ok(()) => {}
            // Whatever keeps it from being read.
            Err(RepositoryError::DamagedChunk { .. }) => bad.push(*chunk),
            Err(error) if error.is_damage() => bad.push(*chunk),
            Err(error) => return Err(error),
        }
    }
    Ok(bad)
}
