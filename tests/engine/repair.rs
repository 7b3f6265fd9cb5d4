//! Repair: what is whole is kept, what is lost is fetched or named, and nothing is deleted.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::format::pack::PackKind;
use cairn_engine::id::SnapshotId;
use cairn_engine::limits::BLOCK_LEN;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repair::{
    DiskDonor, Donor, RepairError, RepairOptions, RepairReport, RepositoryDonor, rebuild_index,
    repair,
};
use cairn_engine::repository::{Access, Contents, Repository};
use cairn_engine::storage::{Area, Name};
use cairn_engine::verify::Hurt;

use crate::support::memory::restore_fresh;
use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, assert_clean, random_disk, seed, snapshot};

/// A repository of one snapshot.
struct World {
    repository: TestRepository,
    bytes: Vec<u8>,
    id: SnapshotId,
}

impl World {
    fn new(passphrase: Option<&'static str>, bytes: &[u8]) -> Self {
        let repository = TestRepository::with(passphrase, |settings| *settings = small_settings());
        let made = repository.backup(MemorySource::new(bytes.to_vec()), None);
        let id = made.expect("backs up").snapshot;
        let bytes = bytes.to_vec();
        Self {
            repository,
            bytes,
            id,
        }
    }

    fn path(&self, name: Name) -> PathBuf {
        self.repository.path().join(name.path())
    }

    /// Returns the packs of a kind.
    fn packs(&self, kind: PackKind) -> Vec<Name> {
        let repository = self.repository.open();
        let contents = Contents::open(&repository, Access::Read(Vec::new()), "test");
        let contents = contents.expect("opens");
        let packs = contents.packs();
        let of_kind = packs.iter().filter(|pack| {
            let footer = contents.footer(**pack).expect("it is whole");
            footer.header().kind == kind
        });
        of_kind.map(|pack| Name::Pack(*pack)).collect()
    }

    fn repair(&self, donors: &[Donor]) -> RepairReport {
        try_repair(&self.repository.open(), donors).expect("it can be repaired")
    }

    /// Fails unless every byte is there, by a restore and by a verify.
    fn assert_whole(&self) {
        let repository = self.repository.open();
        assert_clean(&self.repository.verify());
        let back = restore_fresh(&repository, &snapshot(&repository, self.id));
        assert!(back.expect("it restores") == self.bytes, "other bytes");
    }

    fn disk(&self) -> Donor {
        disk_donor(self.bytes.clone())
    }

    fn aside(&self, name: Name) -> PathBuf {
        let file = self.path(name);
        let file = file.file_name().expect("a pack has a name");
        self.repository.path().join("damaged").join(file)
    }
}

fn disk_donor(bytes: Vec<u8>) -> Donor {
    Donor::Disk(DiskDonor {
        snapshot: None,
        target: "vda".to_owned(),
        source: Box::new(MemorySource::new(bytes)),
    })
}

fn repository_donor(world: &World) -> Donor {
    let repository = world.repository.open();
    let list = repository.snapshots().expect("snapshots are listed");
    let contents = Contents::open(&repository, Access::Read(Vec::new()), "test");
    let contents = Arc::new(contents.expect("opens"));
    Donor::Repository(RepositoryDonor::new(contents, list.snapshots))
}

pub fn try_repair(
    repository: &Arc<Repository>,
    donors: &[Donor],
) -> Result<RepairReport, RepairError> {
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = RepairOptions {
        packs: None,
        donors,
        threads: 2,
        progress: &progress,
        cancel: &cancel,
    };
    repair(repository, &options)
}

fn disk(seed: u64) -> Vec<u8> {
    let mut bytes = random_disk(&mut fastrand::Rng::with_seed(seed), 900_000);
    // Something that is in no hole, whatever the seed.
    bytes[..200_000].fill_with({
        let mut random = fastrand::Rng::with_seed(seed);
        move || random.u8(..)
    });
    bytes
}

fn flip(path: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = fs::read(path).expect("the object is there");
    let at = at(bytes.len());
    bytes[at] ^= 4;
    fs::write(path, bytes).expect("the object can be written");
}

/// A way to damage the first of some packs, with its name.
type Damage = (&'static str, fn(&World, &[Name]));

const DAMAGES: [Damage; 5] = [
    ("a flipped frame", |world, packs| {
        flip(&world.path(packs[0]), |len| len / 3);
    }),
    ("a flipped footer", |world, packs| {
        flip(&world.path(packs[0]), |len| len - 60);
    }),
    ("a cut pack", |world, packs| {
        let path = world.path(packs[0]);
        let bytes = fs::read(&path).expect("it is there");
        fs::write(&path, &bytes[..bytes.len() / 2]).expect("it can be written");
    }),
    ("a deleted pack", |world, packs| {
        fs::remove_file(world.path(packs[0])).expect("it can be removed");
    }),
    ("all packs deleted", |world, packs| {
        for pack in packs {
            fs::remove_file(world.path(*pack)).expect("it can be removed");
        }
    }),
];

/// `other` makes the repository that heals; without one the disk does.
fn everything_heals(passphrase: Option<&'static str>, other: impl Fn(&World) -> Option<World>) {
    let seed = seed();
    for kind in [PackKind::Data, PackKind::Nodes] {
        for (what, damage) in DAMAGES {
            let world = World::new(passphrase, &disk(seed));
            let packs = world.packs(kind);
            damage(&world, &packs);
            assert!(!world.repository.verify().faults.is_empty(), "{what}");
            let other = other(&world);
            let donor = other
                .as_ref()
                .map_or_else(|| world.disk(), repository_donor);
            let report = world.repair(&[donor]);
            let faults = &report.remaining;
            assert!(faults.is_empty(), "{what}, {kind:?}: {faults:#?}");
            assert!(report.healed > 0, "{what}, {kind:?}: {report:?}");
            world.assert_whole();
            assert!(!what.contains("delete") || report.damaged.is_empty());
            assert!(what.contains("delete") || world.aside(packs[0]).exists());
        }
    }
}

#[test]
fn the_original_disk_heals_everything_in_a_plain_repository() {
    everything_heals(None, |_| None);
}

#[test]
fn the_original_disk_heals_everything_in_an_encrypted_repository() {
    everything_heals(Some("correct horse"), |_| None);
}

#[test]
fn a_second_plain_repository_heals_a_plain_one() {
    everything_heals(None, |world| Some(World::new(None, &world.bytes)));
}

#[test]
fn a_repository_with_other_keys_heals_an_encrypted_one() {
    everything_heals(Some("correct horse"), |world| {
        Some(World::new(Some("another horse"), &world.bytes))
    });
}

#[test]
fn what_nobody_has_is_named_and_stored_anew_by_the_next_backup() {
    for passphrase in [None, Some("correct horse")] {
        let world = World::new(passphrase, &disk(seed()));
        let pack = world.packs(PackKind::Data)[0];
        flip(&world.path(pack), |_| 200);
        let before = fs::read(world.path(pack)).expect("it is there");
        let report = world.repair(&[]);
        assert_eq!(report.damaged.len(), 1, "{report:?}");
        assert!(report.is_set_aside && report.salvaged > 0, "{report:?}");
        let hurts: Vec<_> = report.remaining.iter().flat_map(|it| &it.hurts).collect();
        assert!(hurts.iter().all(|hurt| hurt.snapshot == world.id));
        let lost: u64 = hurts.iter().map(|it| it.range.end - it.range.start).sum();
        assert!(lost > 0 && lost < world.bytes.len() as u64 / 4, "{hurts:?}");
        // Nothing of the damaged pack is deleted, and nobody counts on it.
        let aside = fs::read(world.aside(pack)).expect("it was set aside");
        assert!(aside == before && !world.path(pack).exists());
        let listed = world.repository.open().storage().list(Area::Packs);
        let mut listed = listed.expect("packs are listed").into_iter();
        assert!(listed.all(|listed| listed.name != pack));

        let source = MemorySource::new(world.bytes.clone());
        let again = world.repository.backup(source, None).expect("backs up");
        assert!(again.snapshot != world.id);
        world.assert_whole();
    }
}

/// What verify found damaged counts as absent for the backups of this client: no repair is needed.
#[test]
fn the_next_backup_stores_anew_what_verify_found_damaged() {
    for (passphrase, kind) in [
        (None, PackKind::Data),
        (Some("correct horse"), PackKind::Data),
        (None, PackKind::Nodes),
    ] {
        let world = World::new(passphrase, &disk(seed()));
        let pack = world.packs(kind)[0];
        flip(&world.path(pack), |_| 200);
        let source = || MemorySource::new(world.bytes.clone());
        let unknown = world.repository.backup(source(), None).expect("backs up");
        assert_eq!(unknown.manifest.disks[0].new_chunks, 0, "nobody knows yet");
        assert_eq!(world.repository.verify().faults.len(), 1);
        world.repository.backup(source(), None).expect("backs up");
        let report = world.repository.verify();
        assert!(
            report.faults.iter().all(|fault| fault.hurts.is_empty()),
            "{report:?}"
        );
        let restored = world.repository.restore(world.id).expect("restores");
        assert!(restored == world.bytes);
    }
}

/// An incremental does not take over what lies in a damaged pack: its source still has it.
#[test]
fn an_incremental_heals_what_its_parent_has_lost() {
    let world = World::new(None, &disk(seed()));
    let pack = world.packs(PackKind::Data)[0];
    flip(&world.path(pack), |_| 200);
    assert_eq!(world.repository.verify().faults.len(), 1);
    let mut bytes = world.bytes.clone();
    bytes[..10].fill(b'!');
    let changed =
        |from: &[u8], bytes: &[u8]| MemorySource::changed_since(from, bytes.to_vec(), true);
    let source = changed(&world.bytes, &bytes);
    let done = world.repository.backup(source, Some(world.id));
    let done = done.expect("backs up");
    assert_eq!(done.manifest.parent, Some(world.id));
    let read = done.manifest.disks[0].read_bytes;
    assert!(read < bytes.len() as u64 / 2, "{read}");
    let report = world.repository.verify();
    let hurts: Vec<_> = report.faults.iter().flat_map(|it| &it.hurts).collect();
    // Where the disk has changed, nobody has the parent's bytes any more.
    let is_changed = |range: &Range<u64>| range.end <= BLOCK_LEN + 4 * 4096;
    let is_old = |hurt: &&Hurt| hurt.snapshot == world.id && is_changed(&hurt.range);
    assert!(hurts.iter().all(is_old), "{report:?}");
    let restored = world.repository.restore(world.id);
    assert!(restored.is_ok_and(|restored| restored == world.bytes) == hurts.is_empty());
    assert!(world.repository.restore(done.snapshot).expect("restores") == bytes);
    // Nothing is read again for what is whole now.
    let source = changed(&bytes, &bytes);
    let again = world.repository.backup(source, Some(done.snapshot));
    assert_eq!(again.expect("backs up").manifest.disks[0].read_bytes, 0);
}

#[test]
fn packs_with_each_others_bytes_lose_nothing() {
    for passphrase in [None, Some("correct horse")] {
        let world = World::new(passphrase, &disk(seed()));
        let packs = world.packs(PackKind::Data);
        let paths = [world.path(packs[0]), world.path(packs[1])];
        let bytes = paths.each_ref().map(|path| fs::read(path).expect("there"));
        fs::write(&paths[0], &bytes[1]).expect("writable");
        fs::write(&paths[1], &bytes[0]).expect("writable");
        let report = world.repair(&[]);
        assert_eq!(report.damaged.len(), 2, "{report:?}");
        assert!(report.remaining.is_empty(), "{report:?}");
        world.assert_whole();
    }
}

#[test]
fn another_pack_heals_what_is_damaged_in_one() {
    let world = World::new(None, &disk(seed()));
    let pack = world.packs(PackKind::Data)[0];
    let good = fs::read(world.path(pack)).expect("it is there");
    flip(&world.path(pack), |_| 200);
    world.repair(&[]);
    // A second copy of its content, under another name, comes with the next backup.
    let source = MemorySource::new(world.bytes.clone());
    world.repository.backup(source, None).expect("backs up");
    fs::write(world.path(pack), good).expect("it can be put back");
    flip(&world.path(pack), |_| 200);
    let report = world.repair(&[]);
    assert!(report.copied > 0 && report.healed == 0, "{report:?}");
    world.assert_whole();
}

#[test]
fn a_disk_that_has_changed_heals_what_is_left_of_it() {
    let world = World::new(None, &disk(seed()));
    for pack in world.packs(PackKind::Data) {
        fs::remove_file(world.path(pack)).expect("it can be removed");
    }
    let mut changed = world.bytes.clone();
    changed[..10_000].fill(7);
    let report = world.repair(&[disk_donor(changed)]);
    assert!(report.healed > 0, "{report:?}");
    let hurts: Vec<_> = report.remaining.iter().flat_map(|it| &it.hurts).collect();
    assert!(!hurts.is_empty(), "bytes that nobody has were accepted");
    assert!(
        hurts.iter().all(|hurt| hurt.range.start < 10_000),
        "{hurts:?}"
    );
    let report = world.repair(&[world.disk()]);
    assert!(report.remaining.is_empty(), "{report:?}");
    world.assert_whole();
}

#[test]
fn a_writer_or_a_collection_at_work_is_in_the_way() {
    let world = World::new(None, &disk(seed()));
    let pack = world.packs(PackKind::Data)[0];
    flip(&world.path(pack), |_| 200);
    let repository = world.repository.open();
    let writer = Contents::open(&repository, Access::Write, "backup web1").expect("opens");
    let refused = try_repair(&repository, &[]).expect_err("a writer is at work");
    assert!(refused.to_string().contains("backup web1"), "{refused}");
    assert!(world.path(pack).exists());
    drop(writer);
    let reader = Contents::open(&repository, Access::Read(vec![world.id]), "restore");
    let lock = repository.lock_collection().expect("nobody holds it");
    try_repair(&repository, &[]).expect_err("a collection is at work");
    drop(lock);
    let report = try_repair(&repository, &[world.disk()]).expect("readers are in nobody's way");
    assert!(report.is_set_aside && report.remaining.is_empty());
    drop(reader);
    world.assert_whole();
}

#[test]
fn one_pack_can_be_repaired_alone_and_what_is_whole_is_left_alone() {
    let world = World::new(None, &disk(seed()));
    let packs = world.packs(PackKind::Data);
    let nothing = world.repair(&[]);
    assert!(nothing.damaged.is_empty() && nothing.written_packs == 0);
    for pack in &packs[..2] {
        flip(&world.path(*pack), |_| 200);
    }
    let Name::Pack(second) = packs[1] else {
        panic!("it is a pack");
    };
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = RepairOptions {
        packs: Some(vec![second]),
        donors: &[world.disk()],
        threads: 1,
        progress: &progress,
        cancel: &cancel,
    };
    let report = repair(&world.repository.open(), &options).expect("it can be repaired");
    assert_eq!(report.packs, 1);
    assert!(world.path(packs[0]).exists() && !world.path(packs[1]).exists());
    assert_eq!(world.repository.verify().faults.len(), 1);
    world.repair(&[world.disk()]);
    world.assert_whole();
}

#[test]
fn the_index_alone_is_built_anew() {
    let world = World::new(None, &disk(seed()));
    let repository = world.repository.open();
    let folder = repository.index_folder().to_owned();
    let files = |folder: &Path| fs::read_dir(folder).expect("there").count();
    assert!(files(&folder) > 0);
    assert!(rebuild_index(&repository).expect("it can be built"));
    assert!(files(&folder) > 0);
    world.assert_whole();
}
