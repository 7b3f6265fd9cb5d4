//! Stored bytes against their names, without a key.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::storage::{Area, Folder, SharedStorage};
use cairn_engine::verify::{StoredOptions, VerifyReport, verify_stored};

use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, assert_clean, seed, verify_all};

fn world() -> TestRepository {
    let mut random = fastrand::Rng::with_seed(seed());
    let world = TestRepository::with(Some("correct horse"), |settings| {
        *settings = small_settings();
    });
    let mut bytes = vec![0; 512 << 10];
    bytes.fill_with(|| random.u8(..));
    let source = MemorySource::new(bytes);
    world.backup(source, None).expect("backs up");
    world
}

fn storage(world: &TestRepository) -> SharedStorage {
    Arc::new(Folder::open_at(&world.path()).expect("it is there"))
}

fn stored(world: &TestRepository, max_duration: Option<Duration>) -> VerifyReport {
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = StoredOptions {
        max_duration,
        now: jiff::Timestamp::now(),
        threads: 2,
        progress: &progress,
        cancel: &cancel,
    };
    verify_stored(&storage(world), &world.options(), &options).expect("verify goes on")
}

#[test]
fn whatever_decayed_is_named() {
    let world = world();
    let report = stored(&world, None);
    assert_clean(&report);
    let storage = storage(&world);
    let mut documents = 0;
    for area in [Area::Packs, Area::Snapshots, Area::Keys] {
        let listed = storage.list(area).expect("it can be listed");
        assert!(!listed.is_empty(), "{area:?}");
        documents += match area {
            Area::Packs => 0,
            _ => listed.len() as u64,
        };
        for object in listed {
            let path = world.path().join(object.name.path());
            let whole = fs::read(&path).expect("it is there");
            let mut random = fastrand::Rng::with_seed(seed());
            let mut flipped = whole.clone();
            flipped[random.usize(..whole.len())] ^= 1 << random.u8(..8);
            let mut longer = whole.clone();
            longer.push(0);
            for damaged in [&flipped[..], &whole[..whole.len() - 1], &longer, &[]] {
                fs::write(&path, damaged).expect("there is space");
                let report = stored(&world, None);
                assert_eq!(report.faults.len(), 1, "{path:?}: {:#?}", report.faults);
                assert_eq!(report.faults[0].object, object.name.path());
            }
            fs::write(&path, &whole).expect("there is space");
        }
    }
    let report = stored(&world, None);
    assert_clean(&report);
    assert_eq!(report.documents, documents);
    assert_eq!(report.checked_bytes, report.coverage.bytes);
}

#[test]
fn stored_bytes_have_turns_of_their_own() {
    let world = world();
    let packs = stored(&world, Some(Duration::ZERO)).coverage.packs;
    assert!(packs > 4, "{packs}");
    for turn in 1..packs {
        let coverage = stored(&world, Some(Duration::ZERO)).coverage;
        assert_eq!(
            (coverage.read_packs, coverage.never_packs),
            (1, packs - turn - 1)
        );
    }
    // They were not decoded, which is more than that; and what is decoded was read.
    let report = verify_all(&world.open());
    assert_clean(&report);
    assert_eq!(report.coverage.read_packs, packs);
    let before = report.coverage.oldest.expect("all were read");
    assert!(stored(&world, Some(Duration::ZERO)).coverage.oldest >= Some(before));
}
