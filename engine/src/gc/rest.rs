//! Notes that a collection has seen forgotten snapshots, and has left them alone: a later one may
//! take what earlier ones have seen for long enough. So the grace hangs on no single clock.

use super::roots::Roots;
use super::{GcError, GcOptions};
use crate::format::note::Fact;
use crate::id::SnapshotId;
use crate::repository::{Repository, Snapshot, grace};

/// Notes what is news about the forgotten snapshots among those that are kept.
///
/// A clock that is behind the newest snapshot tells nothing: then nothing is noted, and that
/// snapshot is returned.
pub(super) fn note(
    repository: &Repository,
    roots: &Roots,
    options: &GcOptions<'_>,
) -> Result<Option<SnapshotId>, GcError> {
    let is_news =
        |snapshot: &&Snapshot| grace::is_news(&snapshot.state, options.grace, options.now);
    let mut news = roots.kept.iter().filter(is_news).peekable();
    if news.peek().is_none() {
        return Ok(None);
    }
    let live = roots.kept.iter();
    let live = live.filter(|snapshot| snapshot.state.forgotten.is_none());
    if let Some(newest) = live.max_by_key(|snapshot| snapshot.manifest.time)
        && newest.manifest.time > options.now
    {
        return Ok(Some(newest.id));
    }
    for snapshot in news {
        let after = snapshot.state.forgotten;
        let noted = repository.add_note_at(snapshot.id, Fact::Resting, options.now, after);
        match noted.map_err(GcError::from) {
            // It rests on, and makes no room. What does must be deleted all the same.
            Err(error) if error.is_no_space() => return Ok(None),
            noted => drop(noted?),
        }
    }
    Ok(None)
}
