//! What a verify notes with snapshots: only what it read whole, and one note for each.

use std::fs;

use cairn_engine::format::note::Fact;
use cairn_engine::id::SnapshotId;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{ALL_CHUNKS, Access, Contents};
use cairn_engine::storage::Area;
use cairn_engine::verify::{VerifyOptions, VerifyReport, verify};
use jiff::{SignedDuration, Timestamp};

use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, seed, snapshot};

/// A repository of two snapshots that share nothing.
fn world(passphrase: Option<&'static str>) -> (TestRepository, [SnapshotId; 2]) {
    let mut random = fastrand::Rng::with_seed(seed());
    let repository = TestRepository::with(passphrase, |settings| *settings = small_settings());
    let ids = [0, 1].map(|_| {
        let mut bytes = vec![0; 200_000];
        random.fill(&mut bytes);
        let made = repository.backup(MemorySource::new(bytes), None);
        made.expect("backs up").snapshot
    });
    (repository, ids)
}

fn verified(
    repository: &TestRepository,
    adjust: impl FnOnce(&mut VerifyOptions<'_>),
) -> VerifyReport {
    let repository = repository.open();
    let list = repository.snapshots().expect("snapshots are listed");
    let contents = Contents::open(&repository, Access::Read(Vec::new()), "verify");
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let mut options = VerifyOptions {
        snapshots: None,
        metadata_only: false,
        sample_percent: 100.0,
        max_duration: None,
        now: Timestamp::now(),
        threads: 2,
        progress: &progress,
        cancel: &cancel,
    };
    adjust(&mut options);
    verify(&contents.expect("opens"), &list, &options).expect("verify runs")
}

fn whole(report: VerifyReport) -> Vec<SnapshotId> {
    let mut whole = report.whole;
    whole.sort_unstable();
    whole
}

fn add(repository: &TestRepository, whole: &[SnapshotId], hours: i64) -> usize {
    let repository = repository.open();
    let list = repository.snapshots().expect("snapshots are listed");
    let now = Timestamp::now() + SignedDuration::from_hours(hours);
    let added = repository.add_verified(&list, whole, now);
    added.expect("notes can be added")
}

fn notes(repository: &TestRepository) -> usize {
    let listed = repository.open().storage().list(Area::Notes);
    listed.expect("notes are listed").len()
}

#[test]
fn only_what_was_read_to_the_end_is_whole() {
    for passphrase in [None, Some("correct horse")] {
        let (repository, mut ids) = world(passphrase);
        ids.sort_unstable();
        assert_eq!(whole(verified(&repository, |_| {})), ids);
        let one = |options: &mut VerifyOptions<'_>| options.snapshots = Some(vec![ids[1]]);
        assert_eq!(whole(verified(&repository, one)), [ids[1]]);
        let parts: [fn(&mut VerifyOptions<'_>); 3] = [
            |options| options.metadata_only = true,
            |options| options.sample_percent = 50.0,
            |options| options.max_duration = Some(std::time::Duration::ZERO),
        ];
        for part in parts {
            assert_eq!(whole(verified(&repository, part)), []);
        }
    }
}

#[test]
fn what_damage_hurts_is_not_whole_and_the_rest_is() {
    let (repository, ids) = world(None);
    let listed = repository.open().storage().list(Area::Packs);
    for listed in listed.expect("packs are listed") {
        let path = repository.path().join(listed.name.path());
        let before = fs::read(&path).expect("it is there");
        let mut bytes = before.clone();
        bytes[60] ^= 1;
        fs::write(&path, bytes).expect("it can be written");
        let report = verified(&repository, |_| {});
        let hurts = report.faults.iter().flat_map(|fault| &fault.hurts);
        let hurt: Vec<_> = hurts.map(|hurt| hurt.snapshot).collect();
        let mut unhurt = ids.to_vec();
        unhurt.retain(|id| !hurt.contains(id));
        unhurt.sort_unstable();
        assert!(!hurt.is_empty());
        assert_eq!(whole(report), unhurt);
        fs::write(&path, before).expect("it can be written");
    }
}

#[test]
fn there_is_one_note_for_each_snapshot() {
    for passphrase in [None, Some("correct horse")] {
        let (repository, ids) = world(passphrase);
        let opened = repository.open();
        let other = Fact::Verified {
            what: "data".to_owned(),
        };
        for fact in [other, Fact::Protected] {
            opened.add_note(ids[0], fact).expect("the note is added");
        }
        assert_eq!(add(&repository, &ids, 0), 2);
        assert_eq!(notes(&repository), 4);
        let time = |id| snapshot(&repository.open(), id).state.verified[ALL_CHUNKS];
        let first = time(ids[0]);
        // A nightly one comes a day later, or a little less.
        assert_eq!(add(&repository, &ids, 19), 0);
        assert_eq!(add(&repository, &ids[..1], 21), 1);
        assert_eq!(notes(&repository), 4);
        assert!(time(ids[0]) > first);
        // By a clock that was set back, the last one is yet to come.
        assert_eq!(add(&repository, &ids, -48), 2);
        assert_eq!(notes(&repository), 4);
        let state = snapshot(&repository.open(), ids[0]).state;
        assert!(state.is_protected && state.verified.contains_key("data"));
    }
}
