//! Notes that decide over snapshots hold whatever the clock was when others were written.

use std::sync::Arc;

use cairn_engine::format::note::Fact;
use cairn_engine::gc::{Collection, GcOptions, GcReport};
use cairn_engine::id::SnapshotId;
use cairn_engine::repository::{Repository, RepositoryError, SnapshotState};
use cairn_engine::retention::{self, Candidate, Clock, Count, Grace, Policy};
use cairn_engine::storage::{Area, Name, StorageError};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::support::gc::{collect, with_gc_options};
use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, assert_clean, random_disk, snapshot};

/// A repository with some snapshots of one disk.
fn world(count: usize) -> (TestRepository, Arc<Repository>, Vec<SnapshotId>) {
    let mut random = fastrand::Rng::with_seed(11);
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let disk = random_disk(&mut random, 200_000);
    let ids = (0..count).map(|_| {
        let done = folder.backup(MemorySource::new(disk.clone()), None);
        done.expect("backs up").snapshot
    });
    let ids = ids.collect();
    let repository = folder.open();
    (folder, repository, ids)
}

fn state(repository: &Repository, id: SnapshotId) -> SnapshotState {
    snapshot(repository, id).state
}

/// A moment that a clock far ahead showed.
fn ahead() -> Option<Timestamp> {
    Some(Timestamp::now() + (24 * 365 * 10).hours())
}

#[test]
fn the_last_word_holds_though_the_clock_went_back() {
    let (_folder, repository, ids) = world(1);
    let id = ids[0];
    let noted = repository.add_note_after(id, Fact::Forgotten, ahead());
    noted.expect("a note is added");
    let forgotten = state(&repository, id);
    assert!(forgotten.forgotten > Some(Timestamp::now()));
    let hour: Grace = "1h".parse().expect("a time");
    assert!(
        !retention::taken(&forgotten, hour, Timestamp::now()),
        "dated after now"
    );

    retention::undelete(&repository, &ids).expect("it is brought back");
    assert_eq!(state(&repository, id).forgotten, None);
    repository.forget(&ids).expect("it is forgotten");
    assert!(state(&repository, id).forgotten.is_some());
    retention::undelete(&repository, &ids).expect("it is brought back");
    assert_eq!(state(&repository, id).forgotten, None);

    let noted = repository.add_note_after(id, Fact::Protected, ahead());
    noted.expect("a note is added");
    assert!(state(&repository, id).is_protected);
    retention::unprotect(&repository, &ids).expect("the note is added");
    assert!(!state(&repository, id).is_protected);
    retention::protect(&repository, &ids).expect("the note is added");
    assert!(state(&repository, id).is_protected);
}

#[test]
fn one_that_must_stay_lets_none_be_forgotten() {
    let (_folder, repository, ids) = world(3);
    retention::protect(&repository, &ids[1..2]).expect("the note is added");
    let refused = repository.forget(&ids);
    assert!(
        matches!(refused, Err(RepositoryError::Protected(id)) if id == ids[1]),
        "{refused:?}"
    );
    assert!(
        ids.iter()
            .all(|id| state(&repository, *id).forgotten.is_none())
    );

    // A note that forgets it all the same, as a race may leave it, lets no collection take it.
    let noted = repository.add_note(ids[1], Fact::Forgotten);
    noted.expect("a note is added");
    let none = Grace::NONE;
    let later = Timestamp::now() + 1.hour();
    assert!(!retention::taken(&state(&repository, ids[1]), none, later));
    repository.forget(&ids[..1]).expect("it is forgotten");
    assert!(retention::taken(&state(&repository, ids[0]), none, later));
    let week = Grace::of(repository.config());
    assert_eq!(week.to_string(), "7d");
    assert!(!retention::taken(&state(&repository, ids[0]), week, later));
}

/// The note that is damaged may be the one that brought the snapshot back.
#[test]
fn a_damaged_note_lets_nothing_be_taken_or_pruned() {
    let (folder, repository, ids) = world(2);
    repository.forget(&ids).expect("they are forgotten");
    let note = repository.add_note(ids[0], Fact::Undeleted);
    let note = Name::Note(ids[0], note.expect("a note is added"));
    assert_eq!(state(&repository, ids[0]).forgotten, None);
    let path = folder.path().join(note.to_string());
    std::fs::write(path, "{").expect("the note can be damaged");

    let damaged = state(&repository, ids[0]);
    assert!(damaged.forgotten.is_some() && damaged.has_damaged_note);
    let none = Grace::NONE;
    let later = Timestamp::now() + 1.hour();
    assert!(!retention::taken(&damaged, none, later));
    assert!(retention::taken(&state(&repository, ids[1]), none, later));
}

#[test]
fn what_is_gone_brings_none_back() {
    let (_folder, repository, ids) = world(2);
    repository.forget(&ids).expect("they are forgotten");
    let storage = repository.storage();
    storage
        .delete(&Name::Snapshot(ids[1]))
        .expect("it can be removed");
    let notes = storage.list(Area::Notes).expect("notes are listed").len();
    for refused in [
        retention::undelete(&repository, &ids),
        retention::protect(&repository, &ids),
        retention::unprotect(&repository, &ids),
    ] {
        assert!(
            matches!(refused, Err(RepositoryError::SnapshotGone(id)) if id == ids[1]),
            "{refused:?}"
        );
    }
    let after = storage.list(Area::Notes).expect("notes are listed").len();
    assert_eq!(notes, after, "nothing was noted");
    assert!(state(&repository, ids[0]).forgotten.is_some());
}

/// A collection that stopped after planning, and one that is at work.
#[test]
fn what_is_brought_back_is_not_taken_by_a_plan() {
    let (folder, repository, ids) = world(2);
    repository.forget(&ids[..1]).expect("it is forgotten");
    let refused = with_gc_options(Timestamp::now(), 0.0, |options| {
        let mut collection = Collection::begin(&repository, options).expect("it begins");
        let planned = collection.plan().expect("it plans");
        assert_eq!(
            planned.map(|planned| planned.plan.taken),
            Some(vec![ids[0]])
        );
        retention::undelete(&repository, &ids[..1])
    });
    assert!(
        matches!(
            refused,
            Err(RepositoryError::Storage(StorageError::Locked { .. }))
        ),
        "{refused:?}"
    );
    assert!(state(&repository, ids[0]).forgotten.is_some());

    retention::undelete(&repository, &ids[..1]).expect("it is brought back");
    let plan = repository.collection_plan().expect("it can be read");
    assert_eq!(plan, None);
    let whole = folder.restore(ids[0]).expect("it is all there");
    let report = collect(&repository, Timestamp::now()).expect("it goes through");
    assert!(report.taken.is_empty() && !report.resumed, "{report:?}");
    assert!(folder.restore(ids[0]).expect("it is all there") == whole);
    assert_clean(&folder.verify());
}

/// Collects with a grace of a week, by a clock that shows so many days after now.
fn collect_at(repository: &Arc<Repository>, days: i64) -> GcReport {
    let now = Timestamp::now() + (days * 24).hours();
    with_gc_options(now, 0.0, |options| {
        let grace = "7d".parse().expect("a time");
        let options = GcOptions { grace, ..options };
        let collected = Collection::begin(repository, options).and_then(Collection::run);
        collected.expect("it goes through")
    })
}

/// Each line: what the clocks of collections show, in days after `forget`, and whether the last of
/// them, and no other, takes what was forgotten.
#[test]
fn no_single_wrong_clock_ends_the_grace() {
    for (days, takes) in [
        // All are right.
        (&[0, 1, 6, 7, 8][..], true),
        (&[0, 8, 9], true),
        // `forget` was behind, by a month: the first that sees it begins to count.
        (&[30, 31, 36], false),
        (&[30, 37], false),
        (&[30, 37, 38], true),
        // One was ahead, the first or a later one.
        (&[0, 30], false),
        (&[0, 30, 1, 2, 6], false),
        (&[0, 30, 1, 7, 8], true),
        (&[30, 1, 2, 10], false),
        // All were behind.
        (&[-30, -20, -10], false),
    ] {
        let (_folder, repository, ids) = world(2);
        repository.forget(&ids[..1]).expect("it is forgotten");
        for (at, day) in (1..).zip(days) {
            let report = collect_at(&repository, *day);
            let is_last = at == days.len();
            let expected: &[SnapshotId] = if is_last && takes { &ids[..1] } else { &[] };
            assert_eq!(report.taken, expected, "{days:?}, {at}");
            let behind = Some(ids[1]).filter(|_| *day < 0);
            assert_eq!(report.behind, behind, "{days:?}, {at}");
        }
    }
}

/// Two in a row are one look, and bringing it back ends what was seen.
#[test]
fn looks_count_apart_and_since_it_was_forgotten() {
    let (_folder, repository, ids) = world(2);
    repository.forget(&ids[..1]).expect("it is forgotten");
    for day in [0, 30, 30] {
        assert!(collect_at(&repository, day).taken.is_empty(), "{day}");
    }
    retention::undelete(&repository, &ids[..1]).expect("it is brought back");
    assert!(state(&repository, ids[0]).resting.is_empty());
    repository.forget(&ids[..1]).expect("it is forgotten");
    assert!(collect_at(&repository, 31).taken.is_empty());
    assert_eq!(state(&repository, ids[0]).resting.len(), 1);
    let none = with_gc_options(Timestamp::now(), 0.0, |options| {
        Collection::begin(&repository, options).and_then(Collection::run)
    });
    assert_eq!(none.expect("it goes through").taken, ids[..1]);
}

#[test]
fn snapshots_of_a_repository_are_decided_upon() {
    let (_folder, repository, ids) = world(4);
    repository.forget(&ids[..1]).expect("it is forgotten");
    let pin = Fact::Pinned {
        what: "domain x".to_owned(),
    };
    repository.add_note(ids[1], pin).expect("a note is added");
    let list = repository.snapshots().expect("snapshots are listed");
    let all = Candidate::all(&list.snapshots);
    let policy = Policy {
        last: Count::new(1),
        ..Policy::default()
    };
    let clock = Clock {
        now: Timestamp::now() + 1.minute(),
        zone: TimeZone::UTC,
    };
    let groups = retention::decide(&all, &policy, None, &clock, |_| true);
    let groups = groups.expect("the policy keeps something");
    assert_eq!(groups.len(), 1);
    let found: Vec<(SnapshotId, bool)> = groups[0]
        .decisions
        .iter()
        .map(|decision| (decision.id, decision.is_kept()))
        .collect();
    assert_eq!(found, [(ids[1], true), (ids[2], false), (ids[3], true)]);
}
