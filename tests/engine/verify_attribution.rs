//! A flipped bit is the fault of the pack it is in, with what a restore region by region misses.

use cairn_engine::format::pack::PackKind;
use cairn_engine::id::{PackId, SnapshotId};
use cairn_engine::limits::REGION_LEN;
use cairn_engine::storage::Name;
use cairn_engine::verify::{FaultKind, VerifyReport};

use crate::support::liar::{replace_index, truth};
use crate::support::memory::{restore_in, verify_in};
use crate::support::packs::{MemoryRepository, readable};
use crate::support::{MemorySource, TestRepository, assert_clean, edit, seed};

const DISK_LEN: usize = 40 << 20;

/// Two snapshots of a disk of three regions, in many packs, the nodes in some of them.
fn world(random: &mut fastrand::Rng) -> (MemoryRepository, [SnapshotId; 2]) {
    let folder = TestRepository::with(None, |settings| {
        settings.frame_len = 32 * 1024;
        settings.pack_len = 256 * 1024;
    });
    let mut bytes = vec![0; DISK_LEN];
    for region in bytes.chunks_mut(REGION_LEN as usize) {
        for _ in 0..3 {
            let start = random.usize(..region.len() - (1 << 20));
            region[start..start + (1 << 20)].fill_with(|| random.u8(b'a'..=b'p'));
        }
    }
    let backup = |bytes: &[u8]| {
        let source = MemorySource::new(bytes.to_vec());
        folder.backup(source, None).expect("backs up").snapshot
    };
    let first = backup(&bytes);
    edit(random, &mut bytes);
    bytes[DISK_LEN - 100_000..].fill_with(|| random.u8(..));
    let second = backup(&bytes);
    (MemoryRepository::load(folder), [first, second])
}

/// Checks that all faults are those of `pack`, and hurt exactly what cannot be restored. Returns
/// how many regions that is.
fn check(
    world: &MemoryRepository,
    snapshots: &[SnapshotId],
    report: &VerifyReport,
    pack: PackId,
    context: &str,
) -> usize {
    let path = Name::Pack(pack).path();
    let objects: Vec<&String> = report.faults.iter().map(|fault| &fault.object).collect();
    assert_eq!(objects, [&path], "{context}: {:#?}", report.faults);
    let contents = world.contents();
    let mut lost = 0;
    for id in snapshots {
        let found = readable(&contents, &world.snapshot(*id));
        let hurts = report.faults[0].hurts.iter();
        let hurts: Vec<_> = hurts.filter(|hurt| hurt.snapshot == *id).collect();
        for (region, is_readable) in found.iter().enumerate() {
            let start = region as u64 * REGION_LEN;
            let is_hurt = hurts
                .iter()
                .any(|hurt| hurt.range.start < start + REGION_LEN && start < hurt.range.end);
            assert_eq!(
                is_hurt, !is_readable,
                "{context}: region {region} of {id}, {hurts:?}"
            );
            lost += usize::from(!is_readable);
        }
    }
    lost
}

fn flips(kind: PackKind) {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let (world, snapshots) = world(&mut random);
    let list = world.repository.snapshots().expect("snapshots are listed");
    let mut lost = 0;
    let objects = world.objects.all();
    for pack in world.packs(kind).into_keys().take(12) {
        let len = objects[&Name::Pack(pack)].len();
        // Somewhere in the frames, which are most of it, and in the footer's trailer.
        for at in [random.usize(48..len / 2), len - 20] {
            let context = format!("seed {seed}, pack {pack} byte {at}");
            world
                .objects
                .flip(&Name::Pack(pack), at, 1 << random.u8(..8));
            let report = verify_in(&world.contents(), &list).expect("verify goes on");
            lost += check(&world, &snapshots, &report, pack, &context);
            world
                .objects
                .set(Name::Pack(pack), Some(objects[&Name::Pack(pack)].clone()));
        }
    }
    assert!(lost > 0, "seed {seed}: nothing was hurt");
    assert_clean(&verify_in(&world.contents(), &list).expect("verify goes on"));
}

#[test]
fn flipped_bits_of_data_packs_are_their_faults() {
    flips(PackKind::Data);
}

#[test]
fn flipped_bits_of_node_packs_are_their_faults() {
    flips(PackKind::Nodes);
}

#[test]
fn many_faults_of_one_pack_are_told_in_a_few_words() {
    let mut random = fastrand::Rng::with_seed(seed());
    let (world, _) = world(&mut random);
    let packs = world.packs(PackKind::Data).into_keys();
    let frames = |pack: &PackId| {
        let reader = world.contents().footer(*pack).expect("it is whole");
        reader.footer().frames.clone()
    };
    let pack = packs
        .max_by_key(|pack| frames(pack).len())
        .expect("there are packs");
    let frames = frames(&pack);
    assert!(frames.len() > 5, "too few frames to show anything");
    for frame in &frames {
        let at = usize::try_from(frame.offset).expect("packs are small") + 10;
        world.objects.flip(&Name::Pack(pack), at, 0x10);
    }
    let list = world.repository.snapshots().expect("snapshots are listed");
    let report = verify_in(&world.contents(), &list).expect("verify goes on");
    assert_eq!(report.faults.len(), 1, "{:#?}", report.faults);
    let message = &report.faults[0].message;
    let more = format!("; and {} more", frames.len() - 3);
    assert!(
        message.ends_with(&more) && message.matches(';').count() == 3,
        "{message}"
    );
}

#[test]
fn an_index_that_says_other_than_the_packs_hurts_nobody() {
    let mut random = fastrand::Rng::with_seed(seed());
    let (world, snapshots) = world(&mut random);
    let contents = world.contents();
    let mut tale = truth(&contents);
    let packs = contents.packs();
    drop(contents);
    let data = world.packs(PackKind::Data);
    let wrong = data.keys().next().expect("there are packs");
    let wrong = tale.get_mut(wrong).expect("it is there");
    for (_, place) in wrong.iter_mut() {
        place.slot = place.slot.wrapping_add(1);
    }
    let count = wrong.len();
    replace_index(&world.repository, &packs, tale);
    let contents = world.contents();
    let list = world.repository.snapshots().expect("snapshots are listed");
    let report = verify_in(&contents, &list).expect("verify goes on");
    let [fault] = &report.faults[..] else {
        panic!("{:#?}", report.faults);
    };
    assert_eq!(
        (fault.kind, fault.object.as_str()),
        (FaultKind::Index, "index")
    );
    assert!(
        fault.hurts.is_empty() && fault.message.contains("no data is hurt"),
        "{fault:?}"
    );
    assert!(
        fault.message.contains(&format!("{count} are wrong")),
        "{fault:?}"
    );
    for id in snapshots {
        restore_in(&contents, &world.snapshot(id)).expect("restores all the same");
    }
}
