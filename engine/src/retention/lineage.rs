//! The order in which snapshots were made, as far as their parents prove it.

use std::collections::HashMap;

use jiff::Timestamp;

use super::decide::Candidate;
use crate::id::SnapshotId;

/// A snapshot that is certainly older than another, with its date.
type Latest = Option<(Timestamp, SnapshotId)>;

/// Returns for every snapshot that is dated before one that it was computed from, directly or by
/// way of others, the latest of those.
///
/// Forgotten ones do not count, but lead on to those before them: so whoever forgets the one with
/// the false date by hand ends the doubt.
pub(super) fn out_of_order(all: &[Candidate<'_>]) -> HashMap<SnapshotId, SnapshotId> {
    let by_id: HashMap<SnapshotId, &Candidate<'_>> =
        all.iter().map(|snapshot| (snapshot.id, snapshot)).collect();
    // The latest date among the ancestors of each.
    let mut above: HashMap<SnapshotId, Latest> = HashMap::with_capacity(all.len());
    let mut path: Vec<&Candidate<'_>> = Vec::new();
    for snapshot in all {
        let mut at = Some(snapshot);
        while let Some(snapshot) = at.filter(|snapshot| !above.contains_key(&snapshot.id)) {
            // Also ends where a forged manifest makes a circle.
            above.insert(snapshot.id, None);
            path.push(snapshot);
            at = parent(snapshot, &by_id);
        }
        for snapshot in path.drain(..).rev() {
            let latest = parent(snapshot, &by_id).and_then(|parent| {
                let own = (!parent.is_forgotten).then_some((parent.time, parent.id));
                own.max(above.get(&parent.id).copied().flatten())
            });
            above.insert(snapshot.id, latest);
        }
    }
    let doubted = |snapshot: &Candidate<'_>| {
        let (time, ancestor) = above.get(&snapshot.id).copied().flatten()?;
        (snapshot.time < time).then_some((snapshot.id, ancestor))
    };
    all.iter().filter_map(doubted).collect()
}

fn parent<'c, 's>(
    snapshot: &Candidate<'_>,
    by_id: &HashMap<SnapshotId, &'c Candidate<'s>>,
) -> Option<&'c Candidate<'s>> {
    snapshot
        .parent
        .and_then(|parent| by_id.get(&parent).copied())
}
