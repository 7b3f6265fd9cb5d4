//! A verify from its beginning to its end: what is looked at after what.

use super::packs::{self, Part};
use super::report::Findings;
use super::turn::Turn;
use super::{VerifyError, VerifyOptions, again, hurt, trees};
use crate::id::PackId;
use crate::repository::{Contents, RepositoryError, Snapshot, SnapshotList};
use crate::storage::{Area, Name, StorageError};

/// A verify at work.
pub(super) struct Verification<'v> {
    pub(super) contents: &'v Contents,
    pub(super) list: &'v SnapshotList,
    pub(super) snapshots: Vec<&'v Snapshot>,
    pub(super) options: &'v VerifyOptions<'v>,
    pub(super) turn: &'v Turn,
}

impl Verification<'_> {
    /// Does it. `packs` becomes those that are to be verified.
    pub(super) fn run(&self, packs: &mut Vec<PackId>) -> Result<Findings, VerifyError> {
        let (contents, options) = (self.contents, self.options);
        let mut findings = Findings::default();
        let began = contents.packs();
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
            again::look_again(contents, &began, &self.snapshots, options, &mut findings)?;
        }
        if findings.has_index_fault() {
            again::look_at_index(contents, options, self.turn, &mut findings)?;
        }
        Ok(findings)
    }

    /// Looks at all but data first: it takes little, and finds what is missing. Data is read in
    /// what is left of the time. Where it is damaged, finding whom that hurts takes what it takes.
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
        let is_damaged = data.has_faults() || (was_damaged && !is_whole);
        found.extend(data);
        if !is_damaged {
            found.count(&mut early.report);
            early.report.is_cut = !is_whole;
            return Ok(early);
        }
        let mut findings = Findings::default();
        documents(contents, self.list, options, &mut findings)?;
        found.add(contents, &mut findings);
        trees::check(contents, &self.snapshots, options, None, &mut findings)?;
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
    let repository = contents.repository();
    for unreadable in list.unreadable.iter().filter(|it| is_wanted(it.id)) {
        if unreadable.error.is_unsupported() || unreadable.error.is_shortage() {
            // Newer or out of reach, and not damaged: it ends the verify, as such a pack does.
            repository.manifest(unreadable.id)?;
        }
        findings.document(Name::Snapshot(unreadable.id), &unreadable.error);
    }
    let notes = repository.storage().list(Area::Notes);
    for listed in notes.map_err(RepositoryError::from)? {
        let Name::Note(snapshot, id) = listed.name else {
            continue;
        };
        if !is_wanted(snapshot) {
            continue;
        }
        match repository.note(snapshot, id) {
            // It went with its snapshot, or for a later one.
            Err(RepositoryError::Storage(StorageError::NotFound(_))) | Ok(_) => {}
            Err(error) if error.is_shortage() => return Err(error.into()),
            Err(error) => findings.document(listed.name, &error),
        }
    }
    for (id, error) in repository.damaged_key_slots()? {
        if error.is_shortage() {
            return Err(error.into());
        }
        findings.document(Name::Key(id), &error);
    }
    Ok(())
}
