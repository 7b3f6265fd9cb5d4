//! Verifying one snapshot reads what that snapshot needs.

use std::collections::BTreeSet;

use cairn_engine::format::pack::PackKind;
use cairn_engine::id::PackId;
use cairn_engine::storage::Name;

use crate::support::memory::{verify_in, verify_named};
use crate::support::packs::MemoryRepository;
use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, assert_clean, seed};

#[test]
fn other_packs_are_not_read() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let mut bytes = vec![0; 3 << 20];
    bytes[..1 << 20].fill_with(|| random.u8(b'a'..=b'p'));
    let backup = |bytes: &[u8]| {
        let source = MemorySource::new(bytes.to_vec());
        folder.backup(source, None).expect("backs up").snapshot
    };
    let first = backup(&bytes);
    bytes[2 << 20..].fill_with(|| random.u8(b'a'..=b'p'));
    let second = backup(&bytes);
    let world = MemoryRepository::load(folder);
    let list = world.repository.snapshots().expect("snapshots are listed");

    let data = world.packs(PackKind::Data);
    let needed = |id| -> BTreeSet<PackId> {
        let chunks = world.chunks(id);
        let holds = data.iter().filter(|(_, ids)| !ids.is_disjoint(&chunks));
        holds.map(|(pack, _)| *pack).collect()
    };
    let (of_first, of_second) = (needed(first), needed(second));
    assert!(!of_first.is_empty() && of_first.is_subset(&of_second));

    for (id, expected) in [(first, &of_first), (second, &of_second)] {
        let contents = world.contents();
        world.objects.take_reads();
        let report = verify_named(&contents, &list, &[id]).expect("verify goes on");
        assert_clean(&report);
        let reads = world.objects.take_reads().into_iter();
        let read: BTreeSet<PackId> = reads
            .filter_map(|(name, _)| match name {
                Name::Pack(pack) if data.contains_key(&pack) => Some(pack),
                _ => None,
            })
            .collect();
        assert_eq!(read, *expected);
        assert!(report.checked_bytes > 0 && report.snapshots == 1);
    }

    // What only the second needs is no fault of the first, and is one of the second.
    let only_second = of_second
        .difference(&of_first)
        .next()
        .expect("the second is larger");
    world.objects.flip(&Name::Pack(*only_second), 60, 1);
    let verify = |id| verify_named(&world.contents(), &list, &[id]).expect("verify goes on");
    assert_clean(&verify(first));
    let report = verify(second);
    assert_eq!(report.faults.len(), 1, "{:#?}", report.faults);
    assert!(
        report.faults[0]
            .hurts
            .iter()
            .all(|hurt| hurt.snapshot == second)
    );
    assert!(!report.faults[0].hurts.is_empty());
}

#[test]
fn packs_that_nobody_needs_are_verified_with_everything() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let mut bytes = vec![0; 1 << 20];
    bytes.fill_with(|| random.u8(..));
    let source = MemorySource::new(bytes);
    let id = folder.backup(source, None).expect("backs up").snapshot;
    let world = MemoryRepository::load(folder);
    world.objects.set(Name::Snapshot(id), None);
    let list = world.repository.snapshots().expect("snapshots are listed");
    assert!(list.snapshots.is_empty());
    let pack = *world
        .packs(PackKind::Data)
        .keys()
        .next()
        .expect("there are packs");
    world.objects.flip(&Name::Pack(pack), 60, 1);
    let report = verify_in(&world.contents(), &list).expect("verify goes on");
    assert_eq!(report.faults.len(), 1, "{:#?}", report.faults);
    assert_eq!(report.faults[0].object, Name::Pack(pack).path());
    assert!(report.faults[0].hurts.is_empty());
}
