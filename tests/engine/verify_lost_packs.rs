//! A pack that is gone among many: one fault, and every footer read a few times at most.

use std::collections::BTreeMap;

use cairn_engine::format::pack::PackKind;
use cairn_engine::storage::Name;
use cairn_engine::verify::FaultKind;

use crate::support::memory::{restore_in, verify_in};
use crate::support::packs::{MemoryRepository, readable};
use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, seed};

/// Reads of a pack's beginning: to look at the footer, to read it through, to search it, and to
/// look at the footer again for whom a loss hurts.
const READS_MAX: usize = 5;

fn world() -> MemoryRepository {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = TestRepository::with(None, |settings| *settings = small_settings());
    let mut bytes = vec![0; 24 << 20];
    bytes[..4 << 20].fill_with(|| random.u8(..));
    bytes[20 << 20..].fill_with(|| random.u8(b'a'..=b'p'));
    folder
        .backup(MemorySource::new(bytes), None)
        .expect("backs up");
    MemoryRepository::load(folder)
}

#[test]
fn a_pack_that_is_gone_is_one_fault() {
    let world = world();
    let list = world.repository.snapshots().expect("snapshots are listed");
    for kind in [PackKind::Data, PackKind::Nodes] {
        let packs = world.packs(kind);
        let (pack, ids) = packs.iter().next().expect("there are packs");
        assert!(
            kind == PackKind::Nodes || packs.len() > 50,
            "{}",
            packs.len()
        );
        let bytes = world.objects.all().remove(&Name::Pack(*pack));
        world.objects.set(Name::Pack(*pack), None);
        let contents = world.contents();
        world.objects.take_reads();
        let report = verify_in(&contents, &list).expect("verify goes on");
        let mut reads: BTreeMap<Name, usize> = BTreeMap::new();
        for (name, offset) in world.objects.take_reads() {
            *reads.entry(name).or_default() += usize::from(offset == 0);
        }
        let most = reads.values().max();
        assert!(most.is_some_and(|most| *most <= READS_MAX), "{most:?}");

        let [fault] = &report.faults[..] else {
            panic!("{:#?}", report.faults);
        };
        // The index remembers one pack that is not listed any more.
        assert_eq!(fault.object, Name::Pack(*pack).path());
        assert_eq!(fault.kind, FaultKind::Missing);
        if kind == PackKind::Data {
            let count = format!("{} chunks", ids.len());
            assert!(
                fault.message.contains(&count),
                "{} not {count}",
                fault.message
            );
        }
        let contents = world.contents();
        let regions = readable(&contents, &list.snapshots[0]);
        let lost = regions.iter().filter(|is_readable| !**is_readable).count();
        assert!(
            lost > 0 && !fault.hurts.is_empty(),
            "{lost}, {:?}",
            fault.hurts
        );
        world.objects.set(Name::Pack(*pack), bytes);
    }
}

#[test]
fn without_an_index_that_remembers_it_the_recipes_are_named() {
    let world = world();
    let packs = world.packs(PackKind::Data);
    let lost: Vec<_> = packs.keys().take(2).copied().collect();
    for pack in &lost {
        world.objects.set(Name::Pack(*pack), None);
    }
    let list = world.repository.snapshots().expect("snapshots are listed");
    let report = verify_in(&world.contents(), &list).expect("verify goes on");
    let [fault] = &report.faults[..] else {
        panic!("{:#?}", report.faults);
    };
    assert_eq!(
        (fault.object.as_str(), fault.kind),
        ("recipes", FaultKind::Missing)
    );
    let count: usize = lost.iter().map(|pack| packs[pack].len()).sum();
    assert_eq!(
        fault.message,
        format!("{count} chunks are in no readable pack")
    );
    let hurt: u64 = fault
        .hurts
        .iter()
        .map(|hurt| hurt.range.end - hurt.range.start)
        .sum();
    assert!(hurt > 0);
    let error = restore_in(&world.contents(), &list.snapshots[0]).expect_err("chunks are gone");
    assert!(error.is_damage(), "{error:?}");
}
