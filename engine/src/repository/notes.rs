//! Notes: what changed about a snapshot since it was published.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};

use super::open::open_session;
use super::{Repository, RepositoryError};
use crate::format::FileKind;
use crate::format::Unknown;
use crate::format::note::{Fact, Note};
use crate::id::{NoteId, SnapshotId};
use crate::limits::SMALL_DOCUMENT_LEN_MAX;
use crate::storage::{Area, Existing, Name, StorageError};

/// What all notes of a snapshot, in the order of their times, make of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotState {
    /// Since when it is forgotten.
    pub forgotten: Option<Timestamp>,
    /// When collections saw that it is, and left it alone.
    pub resting: Vec<Timestamp>,
    /// Whether it must not be forgotten.
    pub is_protected: bool,
    /// What counts on it, such as domains that count their changes from it: while there is any, it
    /// must not be forgotten.
    pub pins: BTreeSet<String>,
    /// When it was tried, oldest first.
    pub proofs: Vec<Proof>,
    /// Targets of the disks whose changes since the snapshot were told wrong once.
    pub mistrusted: BTreeSet<String>,
    /// How much of it was last read when without a finding, by what was read.
    pub verified: BTreeMap<String, Timestamp>,
    /// When the last of its notes was written, as far as clocks can be trusted.
    pub last_note: Option<Timestamp>,
    /// Whether a note is damaged: it may have protected the snapshot, or brought it back.
    pub has_damaged_note: bool,
}

/// That a snapshot was tried once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// When.
    pub time: Timestamp,
    /// Whether it was of use.
    pub passed: bool,
    /// What was done with it.
    pub what: String,
}

impl SnapshotState {
    /// Fails where something counts on the snapshot of this state.
    pub fn check_not_pinned(&self, snapshot: SnapshotId) -> Result<(), RepositoryError> {
        match self.pins.first() {
            None => Ok(()),
            Some(pin) => Err(RepositoryError::Pinned {
                snapshot,
                pin: pin.clone(),
            }),
        }
    }

    /// Fails where the snapshot of this state must not be forgotten.
    pub fn check_forgettable(&self, snapshot: SnapshotId) -> Result<(), RepositoryError> {
        match self.is_protected {
            true => Err(RepositoryError::Protected(snapshot)),
            false => self.check_not_pinned(snapshot),
        }
    }

    fn apply(&mut self, note: &Note) {
        self.last_note = Some(note.time);
        match &note.fact {
            Fact::Forgotten | Fact::Undeleted => {
                self.forgotten = (note.fact == Fact::Forgotten).then_some(note.time);
                self.resting.clear();
            }
            Fact::Resting => self.resting.push(note.time),
            Fact::Protected => self.is_protected = true,
            Fact::Unprotected => self.is_protected = false,
            Fact::Pinned { what } => drop(self.pins.insert(what.clone())),
            Fact::Unpinned { what } => drop(self.pins.remove(what)),
            Fact::Proved { what } | Fact::Disproved { what } => self.proofs.push(Proof {
                time: note.time,
                passed: matches!(&note.fact, Fact::Proved { .. }),
                what: what.clone(),
            }),
            Fact::Mistrusted { what } => drop(self.mistrusted.insert(what.clone())),
            Fact::Verified { what } => drop(self.verified.insert(what.clone(), note.time)),
            Fact::Other { .. } => {}
        }
    }
}

impl Repository {
    /// Adds a note to a snapshot.
    ///
    /// # Durability
    ///
    /// Durable on return.
    pub fn add_note(&self, snapshot: SnapshotId, fact: Fact) -> Result<NoteId, RepositoryError> {
        self.add_note_after(snapshot, fact, None)
    }

    /// Adds a note to a snapshot that is later than another of its notes, whatever the clock says:
    /// notes count in the order of their times, and the clock may have gone back.
    ///
    /// # Durability
    ///
    /// Durable on return.
    pub fn add_note_after(
        &self,
        snapshot: SnapshotId,
        fact: Fact,
        after: Option<Timestamp>,
    ) -> Result<NoteId, RepositoryError> {
        self.add_note_at(snapshot, fact, Timestamp::now(), after)
    }

    /// Adds a note of this time, or of one just after `after` if that is later.
    ///
    /// # Durability
    ///
    /// Durable on return.
    pub(crate) fn add_note_at(
        &self,
        snapshot: SnapshotId,
        fact: Fact,
        time: Timestamp,
        after: Option<Timestamp>,
    ) -> Result<NoteId, RepositoryError> {
        let step = SignedDuration::from_nanos(1);
        let next = after.map(|after| after.checked_add(step).unwrap_or(after));
        let note = Note {
            snapshot,
            time: time.max(next.unwrap_or(Timestamp::MIN)),
            fact,
            unknown: Unknown::new(),
        };
        let placeholder = Name::Note(snapshot, NoteId::from_bytes([0; NoteId::LEN]));
        let document = |source| RepositoryError::Document {
            object: placeholder,
            source,
        };
        let plain = note.encode().map_err(document)?;
        let stored = self.keys().seal_document(FileKind::Note, plain);
        let id = NoteId::from_bytes(*blake3::hash(&stored).as_bytes());
        let put = || {
            let session = open_session(&**self.storage(), "note")?;
            let name = Name::Note(snapshot, id);
            match (self.storage()).put(session.id(), &name, &stored, Existing::Refuse) {
                Ok(()) | Err(StorageError::Exists(_)) => Ok(id),
                Err(error) => Err(error.into()),
            }
        };
        match put() {
            // Forgetting is the way out of a full medium.
            Err(RepositoryError::Storage(StorageError::NoSpace { .. }))
                if self.storage().release_reserve()? =>
            {
                put()
            }
            done => done,
        }
    }

    /// Forgets snapshots: all of them, or none where one of them is protected or pinned.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Protected`] and [`RepositoryError::Pinned`] for the first that is.
    ///
    /// # Durability
    ///
    /// Durable on return.
    pub fn forget(&self, snapshots: &[SnapshotId]) -> Result<(), RepositoryError> {
        // Read anew: a pin may have come since the snapshots were listed.
        let states = self.states()?;
        for id in snapshots {
            if let Some(state) = states.get(id) {
                state.check_forgettable(*id)?;
            }
        }
        for id in snapshots {
            let after = states.get(id).and_then(|state| state.last_note);
            self.add_note_after(*id, Fact::Forgotten, after)?;
        }
        self.unremember(snapshots);
        Ok(())
    }

    /// Reads one note, checked against its name and against the snapshot that it is about.
    pub fn note(&self, snapshot: SnapshotId, id: NoteId) -> Result<Note, RepositoryError> {
        let object = Name::Note(snapshot, id);
        let stored = self.storage().read(&object, SMALL_DOCUMENT_LEN_MAX)?;
        if blake3::hash(&stored) != *id.as_bytes() {
            return Err(RepositoryError::NameMismatch { object });
        }
        let note = self
            .keys()
            .open_document(FileKind::Note, stored)
            .and_then(|plain| Note::decode(&plain))
            .map_err(|source| RepositoryError::Document { object, source })?;
        if note.snapshot != snapshot {
            return Err(RepositoryError::NameMismatch { object });
        }
        Ok(note)
    }

    /// Returns what the notes make of each snapshot that has any. A note that is damaged counts as
    /// absent, since a snapshot is rather listed than lost; but whoever would delete must know of
    /// it. Verify names it.
    pub(crate) fn states(&self) -> Result<HashMap<SnapshotId, SnapshotState>, RepositoryError> {
        let mut notes = Vec::new();
        let mut states: HashMap<SnapshotId, SnapshotState> = HashMap::new();
        for listed in self.storage().list(Area::Notes)? {
            let Name::Note(snapshot, id) = listed.name else {
                continue;
            };
            match self.note(snapshot, id) {
                Ok(note) => notes.push((note.time, snapshot, note)),
                Err(error) if error.is_damage() => {
                    states.entry(snapshot).or_default().has_damaged_note = true;
                }
                Err(RepositoryError::Storage(StorageError::NotFound(_))) => {}
                Err(error) => return Err(error),
            }
        }
        // At equal times the note that keeps the snapshot comes last, and so holds.
        let keeps = |note: &Note| {
            matches!(
                note.fact,
                Fact::Undeleted | Fact::Protected | Fact::Pinned { .. }
            )
        };
        notes.sort_by_key(|(time, _, note)| (*time, keeps(note)));
        for (_, snapshot, note) in &notes {
            states.entry(*snapshot).or_default().apply(note);
        }
        Ok(states)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(facts: &[Fact]) -> SnapshotState {
        let mut state = SnapshotState::default();
        for (second, fact) in (0..).zip(facts) {
            state.apply(&Note {
                snapshot: SnapshotId::from_bytes([1; 32]),
                time: Timestamp::from_second(second).expect("in range"),
                fact: fact.clone(),
                unknown: Unknown::new(),
            });
        }
        state
    }

    #[test]
    fn each_pin_holds_until_it_is_taken_off() {
        let pinned = |what: &str| Fact::Pinned { what: what.into() };
        let unpinned = |what: &str| Fact::Unpinned { what: what.into() };
        let facts = [
            unpinned("a"),
            pinned("a"),
            pinned("b"),
            pinned("a"),
            unpinned("a"),
        ];
        let id = SnapshotId::from_bytes([1; 32]);
        let held = state(&facts);
        assert_eq!(held.pins, BTreeSet::from(["b".to_owned()]));
        let refused = held.check_not_pinned(id);
        assert!(
            matches!(&refused, Err(RepositoryError::Pinned { pin, .. }) if pin == "b"),
            "{refused:?}"
        );
        let free = state(&[&facts[..], &[unpinned("b")]].concat());
        assert!(free.pins.is_empty() && free.check_not_pinned(id).is_ok());
    }

    #[test]
    fn proofs_are_kept_with_their_times() {
        let proved = |what: &str| Fact::Proved { what: what.into() };
        let silent = Fact::Disproved {
            what: "silent".into(),
        };
        let proofs = state(&[proved("booted"), Fact::Protected, silent]).proofs;
        let proofs: Vec<_> = proofs
            .iter()
            .map(|proof| (proof.time.as_second(), proof.passed, &*proof.what))
            .collect();
        assert_eq!(proofs, [(0, true, "booted"), (2, false, "silent")]);
    }
}
