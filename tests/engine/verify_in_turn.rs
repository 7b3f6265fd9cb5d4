//! Verifies that are cut short cover a repository in turn: what was not read for longest is first.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_engine::format::pack::PackKind;
use cairn_engine::id::PackId;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::storage::Name;
use cairn_engine::verify::{VerifyError, VerifyOptions, VerifyReport, verify};
use jiff::{SignedDuration, Timestamp};

use crate::support::packs::MemoryRepository;
use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, assert_clean, seed};

/// No time at all: one pack is read.
const ONE: Option<Duration> = Some(Duration::ZERO);
/// More time than any test has.
const LONG: Option<Duration> = Some(Duration::from_secs(100_000));

fn world() -> MemoryRepository {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let mut bytes = vec![0; 1 << 20];
    bytes.fill_with(|| random.u8(..));
    let source = MemorySource::new(bytes);
    folder.backup(source, None).expect("backs up");
    MemoryRepository::load(folder)
}

fn night(number: u64) -> Timestamp {
    let first: Timestamp = "2026-11-01T02:00:00Z".parse().expect("the time is valid");
    let nights = i64::try_from(number).expect("few nights pass");
    first + SignedDuration::from_hours(24 * nights)
}

fn try_verify(
    world: &MemoryRepository,
    now: Timestamp,
    max_duration: Option<Duration>,
) -> Result<VerifyReport, VerifyError> {
    let list = world.repository.snapshots().expect("snapshots are listed");
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = VerifyOptions {
        snapshots: None,
        metadata_only: false,
        sample_percent: 100.0,
        max_duration,
        now,
        threads: 1,
        progress: &progress,
        cancel: &cancel,
    };
    verify(&world.contents(), &list, &options)
}

fn verified(
    world: &MemoryRepository,
    now: Timestamp,
    max_duration: Option<Duration>,
) -> VerifyReport {
    try_verify(world, now, max_duration).expect("verify goes on")
}

#[test]
fn every_pack_has_its_turn_and_the_oldest_is_first() {
    let world = world();
    let packs = world.contents().packs().len() as u64;
    assert!(packs > 10, "{packs}");
    for round in 0..3 {
        for turn in 0..packs {
            let now = round * packs + turn;
            let report = verified(&world, night(now), ONE);
            assert_clean(&report);
            let coverage = &report.coverage;
            assert_eq!((coverage.packs, coverage.read_packs), (packs, 1));
            assert!(report.is_cut && coverage.unremembered.is_none());
            assert_eq!(report.checked_bytes, coverage.read_bytes);
            let (never, oldest) = match round {
                0 => (packs - turn - 1, 0),
                _ => (0, now + 1 - packs),
            };
            assert_eq!(coverage.never_packs, never);
            assert_eq!(coverage.never_bytes == 0, never == 0);
            // The clock goes on while packs are read.
            let seconds = coverage.oldest.map(Timestamp::as_second);
            assert_eq!(seconds, Some(night(oldest).as_second()), "{coverage:?}");
        }
    }
    let report = verified(&world, night(1000), LONG);
    assert_clean(&report);
    let coverage = report.coverage;
    assert!(!report.is_cut && report.packs == packs);
    assert_eq!((coverage.read_packs, coverage.never_packs), (packs, 0));
    assert_eq!(coverage.read_bytes, coverage.bytes);
    assert!(coverage.oldest >= Some(night(1000)));
}

/// Verifies with no time, and returns the pack that was read.
fn read_one(world: &MemoryRepository, now: Timestamp) -> (BTreeSet<PackId>, VerifyReport) {
    let list = world.repository.snapshots().expect("snapshots are listed");
    let contents = world.contents();
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = VerifyOptions {
        snapshots: None,
        metadata_only: false,
        sample_percent: 100.0,
        max_duration: ONE,
        now,
        threads: 1,
        progress: &progress,
        cancel: &cancel,
    };
    world.objects.take_reads();
    let report = verify(&contents, &list, &options).expect("verify goes on");
    let reads = world.objects.take_reads().into_iter();
    let packs = reads.filter_map(|(name, _)| match name {
        Name::Pack(pack) => Some(pack),
        _ => None,
    });
    (packs.collect(), report)
}

#[test]
fn damage_is_found_when_its_turn_comes_and_each_time_until_it_is_healed() {
    let world = world();
    let (read, report) = read_one(&world, night(0));
    assert_clean(&report);
    assert_eq!(read.len(), 1, "{read:?}");
    let data = world.packs(PackKind::Data);
    let damaged = *data.keys().find(|pack| !read.contains(pack)).expect("many");
    world.objects.flip(&Name::Pack(damaged), 60, 1);

    let packs = world.contents().packs().len() as u64;
    let mut night_of = None;
    for number in 1..packs {
        let report = verified(&world, night(number), ONE);
        if !report.faults.is_empty() {
            assert_eq!(report.faults.len(), 1, "{:#?}", report.faults);
            assert_eq!(report.faults[0].object, Name::Pack(damaged).path());
            assert!(!report.faults[0].hurts.is_empty());
            // The damaged one takes nobody's turn.
            assert_eq!(report.coverage.read_packs, 2);
            night_of = Some(number);
            break;
        }
    }
    let found = night_of.expect("everything has its turn");
    for number in found + 1..found + packs {
        let report = verified(&world, night(number), ONE);
        assert_eq!(report.faults.len(), 1, "{:#?}", report.faults);
    }
    assert_eq!(verified(&world, night(200), ONE).coverage.never_packs, 1);
    world.objects.flip(&Name::Pack(damaged), 60, 1);
    let (read, report) = read_one(&world, night(201));
    assert_clean(&report);
    assert_eq!(read, BTreeSet::from([damaged]));
    assert_eq!(report.coverage.never_packs, 0);
}

#[test]
fn times_that_are_yet_to_come_hide_nothing() {
    let world = world();
    let packs = world.contents().packs().len() as u64;
    assert_eq!(verified(&world, night(5000), None).coverage.never_packs, 0);
    for number in 0..packs {
        let coverage = verified(&world, night(number), ONE).coverage;
        assert_eq!(coverage.never_packs, packs - number - 1);
        // The first night, however long the reading took.
        let oldest = coverage.oldest.expect("something was read");
        assert!((night(0)..night(1)).contains(&oldest), "{oldest}");
    }
}

#[test]
fn what_was_read_before_a_failure_is_remembered() {
    const EMFILE: i32 = 24;
    let world = world();
    let packs = world.contents().packs().len() as u64;
    let pack = *world.packs(PackKind::Data).keys().next().expect("many");
    world.objects.break_range(Name::Pack(pack), 0..10, EMFILE);
    world.objects.take_reads();
    try_verify(&world, night(0), None).expect_err("a pack cannot be opened");
    world.objects.heal();
    let reads = world.objects.take_reads().into_iter();
    let read: BTreeSet<Name> = reads
        .map(|(name, _)| name)
        .filter(|name| matches!(name, Name::Pack(other) if *other != pack))
        .collect();
    let (_, report) = read_one(&world, night(1));
    assert_eq!(report.coverage.never_packs, packs - read.len() as u64 - 1);
}

#[test]
fn enough_time_finds_what_no_bound_finds() {
    let world = world();
    let mut data = world.packs(PackKind::Data).into_keys();
    let (damaged, gone) = (data.next().expect("many"), data.next().expect("many"));
    world.objects.flip(&Name::Pack(damaged), 60, 1);
    world.objects.set(Name::Pack(gone), None);
    let told = |max_duration| {
        let report = verified(&world, night(0), max_duration);
        assert!(!report.is_cut);
        let faults = report.faults.into_iter();
        let mut told: Vec<_> = faults
            .map(|fault| (fault.object, fault.message, fault.hurts))
            .collect();
        told.sort_by(|one, other| one.0.cmp(&other.0));
        told
    };
    let (unbound, bound) = (told(None), told(LONG));
    assert_eq!(unbound.len(), 2, "{unbound:#?}");
    assert_eq!(unbound, bound);
    // What is missing is found before any data is read.
    world.objects.flip(&Name::Pack(damaged), 60, 1);
    let report = verified(&world, night(1), LONG);
    assert_eq!(report.faults.len(), 1, "{:#?}", report.faults);
    assert!(!report.faults[0].hurts.is_empty());
}
