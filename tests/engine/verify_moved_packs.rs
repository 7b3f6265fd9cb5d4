//! A collection moves what a reader needs into other packs while it reads.

use cairn_engine::format::FileKind;
use cairn_engine::format::Unknown;
use cairn_engine::format::pack::PackKind;
use cairn_engine::format::plan::{PLAN_VERSION, Plan};
use cairn_engine::repository::{Access, Contents};
use cairn_engine::storage::{Area, Existing, Name, Storage};

use crate::support::memory::{restore_in, verify_in, verify_named};
use crate::support::packs::{MemoryRepository, backed_up, other_packs};
use crate::support::{MemorySource, assert_clean, seed};

fn disk() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut bytes = vec![0; 3 << 20];
    bytes[1 << 20..].fill_with(|| random.u8(b'a'..=b'p'));
    bytes
}

/// Adds all packs of a repository of the same bytes: other packs, same contents. Returns the names
/// of those that were there.
fn add_packs(world: &MemoryRepository, bytes: &[u8]) -> Vec<Name> {
    let old = world.objects.list(Area::Packs).expect("packs are listed");
    for (name, stored) in other_packs(bytes) {
        assert!(old.iter().all(|old| old.name != name), "packs have salts");
        world.objects.set(name, Some(stored));
    }
    old.into_iter().map(|listed| listed.name).collect()
}

fn move_packs(world: &MemoryRepository, bytes: &[u8]) {
    for name in add_packs(world, bytes) {
        world.objects.set(name, None);
    }
}

#[test]
fn damage_to_one_of_two_copies_hurts_nobody() {
    let bytes = disk();
    let (folder, id) = backed_up(&bytes);
    let world = MemoryRepository::load(folder);
    let list = world.repository.snapshots().expect("snapshots are listed");
    let old = add_packs(&world, &bytes);
    for name in &old {
        world.objects.flip(name, 60, 1);
    }
    let contents = world.contents();
    for report in [
        verify_in(&contents, &list),
        verify_named(&contents, &list, &[id]),
    ] {
        let report = report.expect("verify goes on");
        let mut objects: Vec<_> = report.faults.iter().map(|it| it.object.clone()).collect();
        objects.sort();
        let expected: Vec<String> = old.iter().map(Name::path).collect();
        assert_eq!(objects, expected, "{:#?}", report.faults);
        assert!(
            report.faults.iter().all(|fault| fault.hurts.is_empty()),
            "{:#?}",
            report.faults
        );
    }
    let restored = restore_in(&contents, &world.snapshot(id)).expect("restores");
    assert!(restored == bytes);
}

#[test]
fn a_reader_finds_what_was_moved() {
    let bytes = disk();
    let (folder, id) = backed_up(&bytes);
    let world = MemoryRepository::load(folder);
    let list = world.repository.snapshots().expect("snapshots are listed");
    let (restoring, verifying, naming) = (world.contents(), world.contents(), world.contents());
    move_packs(&world, &bytes);
    let restored = restore_in(&restoring, &world.snapshot(id)).expect("restores");
    assert!(restored == bytes);
    assert_clean(&verify_in(&verifying, &list).expect("verify goes on"));
    assert_clean(&verify_named(&naming, &list, &[id]).expect("verify goes on"));

    // Damage to what was moved is damage all the same.
    let contents = world.contents();
    let pack = *world
        .packs(PackKind::Data)
        .keys()
        .next()
        .expect("there are packs");
    world.objects.flip(&Name::Pack(pack), 60, 1);
    let report = verify_in(&contents, &list).expect("verify goes on");
    assert_eq!(report.faults.len(), 1, "{:#?}", report.faults);
}

#[test]
fn what_is_condemned_is_there_for_readers_only() {
    let bytes = disk();
    let (folder, id) = backed_up(&bytes);
    let repository = folder.open();
    let storage = repository.storage();
    let packs = storage.list(Area::Packs).expect("packs are listed");
    let packs = packs.iter().filter_map(|listed| match listed.name {
        Name::Pack(pack) => Some(pack),
        _ => None,
    });
    let opened = Contents::open(&repository, Access::Read(Vec::new()), "test").expect("opens");
    let plan = Plan {
        version: PLAN_VERSION,
        id: opened.session(),
        created: "2026-11-20T00:00:00Z".parse().expect("a time"),
        condemned: packs.collect(),
        covered: Vec::new(),
        taken: Vec::new(),
        waiting_for: None,
        unknown: Unknown::new(),
    };
    let plain = plan.encode().expect("it is in order");
    let stored = repository.keys().seal_document(FileKind::GcPlan, plain);
    storage
        .put(opened.session(), &Name::GcPlan, &stored, Existing::Replace)
        .expect("the plan is written");
    drop(opened);

    assert!(folder.restore(id).expect("a reader sees them") == bytes);
    let again = folder
        .backup(MemorySource::new(bytes.clone()), None)
        .expect("backs up");
    assert!(folder.restore(again.snapshot).expect("restores") == bytes);
    let stored = again.stored;
    assert!(
        !stored.data.packs.is_empty(),
        "all chunks were stored again"
    );
    assert!(!stored.nodes.packs.is_empty(), "and all nodes");
}
