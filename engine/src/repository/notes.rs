//! Notes: what changed about a snapshot since it was published.

use std::collections::HashMap;

use jiff::Timestamp;

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
    /// Whether it must not be forgotten.
    pub is_protected: bool,
}

impl SnapshotState {
    fn apply(&mut self, note: &Note) {
        match note.fact {
            Fact::Forgotten => self.forgotten = Some(note.time),
            Fact::Undeleted => self.forgotten = None,
            Fact::Protected => self.is_protected = true,
            Fact::Unprotected => self.is_protected = false,
            _ => {}
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
        let note = Note {
            snapshot,
            time: Timestamp::now(),
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
        let session = open_session(&**self.storage(), "note")?;
        match self.storage().put(
            session.id(),
            &Name::Note(snapshot, id),
            &stored,
            Existing::Refuse,
        ) {
            Ok(()) | Err(StorageError::Exists(_)) => Ok(id),
            Err(error) => Err(error.into()),
        }
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
    /// absent: a snapshot is rather listed than lost. Verify names it.
    pub(super) fn states(&self) -> Result<HashMap<SnapshotId, SnapshotState>, RepositoryError> {
        let mut notes = Vec::new();
        for listed in self.storage().list(Area::Notes)? {
            let Name::Note(snapshot, id) = listed.name else {
                continue;
            };
            match self.note(snapshot, id) {
                Ok(note) => notes.push((note.time, snapshot, note)),
                Err(error) if error.is_damage() => {}
                Err(RepositoryError::Storage(StorageError::NotFound(_))) => {}
                Err(error) => return Err(error),
            }
        }
        // At equal times the note that keeps the snapshot comes last, and so holds.
        let keeps = |note: &Note| matches!(note.fact, Fact::Undeleted | Fact::Protected);
        notes.sort_by_key(|(time, _, note)| (*time, keeps(note)));
        let mut states: HashMap<SnapshotId, SnapshotState> = HashMap::new();
        for (_, snapshot, note) in &notes {
            states.entry(*snapshot).or_default().apply(note);
        }
        Ok(states)
    }
}
