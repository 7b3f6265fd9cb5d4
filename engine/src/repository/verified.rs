//! Notes that a snapshot was verified: the last one of each kind is kept.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::{Repository, RepositoryError, SnapshotList};
use crate::format::note::{Fact, Note};
use crate::id::SnapshotId;
use crate::storage::{Area, Name};

/// What is said of a snapshot of which every chunk and node was read.
pub const ALL_CHUNKS: &str = "all chunks";
/// How old a note must be before another one is worth its file: a nightly verify is a day apart, or
/// a little less.
const AGE_MIN: SignedDuration = SignedDuration::from_hours(20);

impl Repository {
    /// Notes that snapshots were read whole and without a finding, where no note of the last 20
    /// hours says so. Earlier notes that say the same go, so that there is one for each snapshot.
    /// Returns how many notes were added.
    ///
    /// # Durability
    ///
    /// What was added is durable on return. A power cut may bring earlier notes back.
    pub fn add_verified(
        &self,
        list: &SnapshotList,
        whole: &[SnapshotId],
        now: Timestamp,
    ) -> Result<usize, RepositoryError> {
        let mut added = HashMap::new();
        let mut count = 0;
        for snapshot in list.snapshots.iter().filter(|it| whole.contains(&it.id)) {
            let last = snapshot.state.verified.get(ALL_CHUNKS);
            let age = last.map(|last| now.duration_since(*last));
            // One that is yet to come is from a clock that was wrong.
            if age.is_some_and(|age| (SignedDuration::ZERO..AGE_MIN).contains(&age)) {
                continue;
            }
            let what = ALL_CHUNKS.to_owned();
            let after = snapshot.state.last_note;
            let note = self.add_note_after(snapshot.id, Fact::Verified { what }, after)?;
            count += 1;
            if last.is_some() {
                added.insert(snapshot.id, self.note(snapshot.id, note)?);
            }
        }
        if !added.is_empty() {
            self.delete_earlier(&added)?;
        }
        Ok(count)
    }

    /// Deletes the notes that say what a later one of the same snapshot says.
    fn delete_earlier(&self, later: &HashMap<SnapshotId, Note>) -> Result<(), RepositoryError> {
        for listed in self.storage().list(Area::Notes)? {
            let Name::Note(snapshot, id) = listed.name else {
                continue;
            };
            // What cannot be read stays: it may say something else.
            if let Some(later) = later.get(&snapshot)
                && let Ok(note) = self.note(snapshot, id)
                && note.fact == later.fact
                && note.time < later.time
            {
                self.storage().delete(&listed.name)?;
            }
        }
        Ok(())
    }
}
