//! Parity: packs that are damaged come back byte by byte as long as there is enough of it, and stay
//! as they are where there is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_engine::format::parity::ParityLayout;
use cairn_engine::id::{PackId, SnapshotId};
use cairn_engine::pack::{Rebuild, rebuild_pack};
use cairn_engine::repair::RepairReport;
use cairn_engine::repository::RepositoryError;
use cairn_engine::storage::{Area, Folder, Name, SharedStorage};
use cairn_engine::verify::FaultKind;

use crate::repair::try_repair;
use crate::support::memory::restore_fresh;
use crate::support::objects::Objects;
use crate::support::sim::small_settings;
use crate::support::{MemorySource, TestRepository, assert_clean, seed, snapshot};

const BLOCK: usize = 4096;
const PERCENT: u8 = 5;
const EIO: i32 = 5;

/// A repository with parity, one snapshot, and a pack of several groups.
pub struct World {
    pub repository: TestRepository,
    pub bytes: Vec<u8>,
    pub id: SnapshotId,
    /// The largest pack.
    pub pack: PackId,
    pub layout: ParityLayout,
}

impl World {
    pub fn new(passphrase: Option<&'static str>, seed: u64) -> Self {
        Self::with(passphrase, seed, 9_000_000, PERCENT)
    }

    pub fn with(passphrase: Option<&'static str>, seed: u64, disk_len: usize, percent: u8) -> Self {
        let repository = TestRepository::with(passphrase, |settings| {
            *settings = small_settings();
            settings.pack_len = disk_len.max(BLOCK) as u64;
            settings.parity_percent = Some(percent);
        });
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = (0..disk_len).map(|_| random.u8(..)).collect();
        let made = repository.backup(MemorySource::new(bytes.clone()), None);
        let id = made.expect("backs up").snapshot;
        let mut listed = repository
            .open()
            .storage()
            .list(Area::Packs)
            .expect("listed");
        listed.sort_by_key(|listed| listed.len);
        let largest = listed.pop().expect("there are packs");
        let Name::Pack(pack) = largest.name else {
            panic!("packs are listed");
        };
        Self {
            layout: ParityLayout::new(largest.len, percent).expect("within limits"),
            repository,
            bytes,
            id,
            pack,
        }
    }

    pub fn path(&self, name: Name) -> PathBuf {
        self.repository.path().join(name.path())
    }

    pub fn read(&self, name: Name) -> Vec<u8> {
        fs::read(self.path(name)).expect("the object is there")
    }

    pub fn change(&self, name: Name, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.read(name);
        change(&mut bytes);
        fs::write(self.path(name), bytes).expect("the object can be written");
    }

    pub fn repair(&self) -> RepairReport {
        try_repair(&self.repository.open(), &[]).expect("it can be repaired")
    }

    /// Returns how many blocks parity can make up for at most, all groups together.
    fn capacity(&self) -> usize {
        (self.layout.spares() * self.layout.groups()) as usize
    }

    /// Fails unless every byte is there, by a restore and by a verify.
    pub fn assert_whole(&self, what: &str) {
        let repository = self.repository.open();
        let report = self.repository.verify();
        assert_clean(&report);
        assert_eq!(report.without_parity, 0, "{what}");
        let back = restore_fresh(&repository, &snapshot(&repository, self.id));
        assert!(
            back.expect("it restores") == self.bytes,
            "{what}: other bytes"
        );
        let left = fs::read_dir(self.repository.path().join("tmp")).expect("listed");
        assert_eq!(left.count(), 0, "{what}: files are left");
    }
}

/// Damages blocks, whole or in one bit.
fn spoil(random: &mut fastrand::Rng, bytes: &mut [u8], blocks: impl IntoIterator<Item = usize>) {
    for block in blocks {
        let end = bytes.len().min((block + 1) * BLOCK);
        match random.u8(..3) {
            0 => bytes[block * BLOCK..end].fill(0),
            1 => bytes[block * BLOCK..end].fill_with(|| random.u8(..)),
            _ => bytes[random.usize(block * BLOCK..end)] ^= 1 << random.u8(..8),
        }
    }
}

/// As many blocks of every group as its parity can make up for.
fn all_that_can_be_lost(random: &mut fastrand::Rng, layout: &ParityLayout) -> Vec<usize> {
    let mut lost = Vec::new();
    for group in 0..layout.groups() {
        let members = (0..layout.members()).filter_map(|member| layout.member(group, member));
        let mut members: Vec<usize> = members.map(|block| block as usize).collect();
        random.shuffle(&mut members);
        lost.extend(&members[..layout.spares() as usize]);
    }
    lost
}

type Damage = (&'static str, fn(&World, &mut fastrand::Rng, &mut Vec<u8>));

const DAMAGES: [Damage; 8] = [
    ("a burst with the header", |world, random, bytes| {
        spoil(random, bytes, 0..world.capacity());
    }),
    ("a burst with footer and trailer", |world, random, bytes| {
        let blocks = world.layout.blocks() as usize;
        spoil(random, bytes, blocks - world.capacity()..blocks);
    }),
    ("a burst anywhere", |world, random, bytes| {
        let blocks = world.layout.blocks() as usize;
        let len = world.capacity() - world.layout.groups() as usize;
        // From the middle of a block to the middle of one.
        let start = random.usize(0..(blocks - len) * BLOCK);
        bytes[start..start + len * BLOCK].fill(0x55);
    }),
    ("blocks here and there", |world, random, bytes| {
        let lost = all_that_can_be_lost(random, &world.layout);
        spoil(random, bytes, lost);
    }),
    ("a cut tail", |world, _, bytes| {
        let len = bytes.len() - (world.capacity() - 1) * BLOCK;
        bytes.truncate(len);
    }),
    ("a grown tail", |_, random, bytes| {
        let more = random.usize(1..20_000);
        bytes.extend((0..more).map(|_| random.u8(..)));
    }),
    ("one byte less in the middle", |world, random, bytes| {
        // All after it is another block's: too much, but for the last few.
        let at = bytes.len() - random.usize(1..(world.capacity() - 1) * BLOCK);
        bytes.remove(at);
    }),
    ("one bit of the trailer", |_, _, bytes| {
        let at = bytes.len() - 1;
        bytes[at] ^= 0x10;
    }),
];

fn all_damage_heals(passphrase: Option<&'static str>) {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new(passphrase, seed);
    assert!(world.layout.groups() > 2 && world.capacity() > 100);
    let (pack, parity) = (Name::Pack(world.pack), Name::Parity(world.pack));
    let (whole, whole_parity) = (world.read(pack), world.read(parity));
    let aside = world
        .repository
        .path()
        .join("damaged")
        .join(world.pack.to_hex());
    for (what, damage) in DAMAGES {
        world.change(pack, |bytes| damage(&world, &mut random, bytes));
        let damaged = world.read(pack);
        assert!(!world.repository.verify().faults.is_empty(), "{what}");
        let report = world.repair();
        assert_eq!(report.rebuilt.len(), 1, "{what}: {report:?}");
        assert!(
            report.damaged.is_empty() && report.remaining.is_empty(),
            "{what}"
        );
        assert!(report.renewed_parity.is_empty(), "{what}: {report:?}");
        assert!(world.read(pack) == whole, "{what}: other bytes");
        assert!(world.read(parity) == whole_parity, "{what}: other parity");
        assert!(fs::read(&aside).expect("it is kept") == damaged, "{what}");
        world.assert_whole(what);
    }
}

#[test]
fn all_that_parity_makes_up_for_heals_in_a_plain_repository() {
    all_damage_heals(None);
}

#[test]
fn all_that_parity_makes_up_for_heals_in_an_encrypted_repository() {
    all_damage_heals(Some("correct horse"));
}

#[test]
fn damage_to_parity_takes_no_more_of_it_than_what_it_hits() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new(None, seed);
    let (pack, parity) = (Name::Pack(world.pack), Name::Parity(world.pack));
    let (whole, whole_parity) = (world.read(pack), world.read(parity));
    let directory = world.layout.directory_len();
    let records = whole_parity.len() - 2 * directory;
    // One parity block of each group is left for each block that is lost of it.
    let lost: BTreeSet<usize> = (0..world.layout.groups() as usize).collect();
    let spoil_records = |bytes: &mut Vec<u8>| {
        for (at, record) in bytes[directory..directory + records]
            .chunks_exact_mut(BLOCK + 8)
            .enumerate()
        {
            if !at.is_multiple_of(world.layout.spares() as usize) {
                record[at % (BLOCK + 8)] ^= 4;
            }
        }
    };
    type Spoil<'s> = (&'static str, &'s dyn Fn(&mut Vec<u8>));
    let spoils: [Spoil<'_>; 5] = [
        ("its beginning", &|bytes| bytes[..directory].fill(0)),
        ("its end", &|bytes| {
            let start = bytes.len() - directory;
            bytes[start..].fill(0xff);
        }),
        ("a cut end", &|bytes| {
            bytes.truncate(bytes.len() - directory / 2)
        }),
        ("a grown end", &|bytes| bytes.extend([7; 100])),
        ("all but one of each group", &spoil_records),
    ];
    for (what, spoil_parity) in spoils {
        world.change(parity, spoil_parity);
        world.change(pack, |bytes| {
            spoil(&mut random, bytes, lost.iter().copied())
        });
        let report = world.repair();
        assert_eq!(report.rebuilt.len(), 1, "{what}: {report:?}");
        assert_eq!(report.renewed_parity, [world.pack], "{what}");
        assert!(world.read(pack) == whole && world.read(parity) == whole_parity);
        world.assert_whole(what);
    }
}

#[test]
fn what_is_beyond_parity_stays_as_it_was_and_is_told() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    for what in ["one block too many", "both ends of parity", "no parity"] {
        let world = World::new(None, seed);
        let (pack, parity) = (Name::Pack(world.pack), Name::Parity(world.pack));
        let mut lost = all_that_can_be_lost(&mut random, &world.layout);
        match what {
            "one block too many" => {
                let more = (0..world.layout.blocks() as usize).find(|at| !lost.contains(at));
                lost.extend(more);
            }
            "no parity" => fs::remove_file(world.path(parity)).expect("removed"),
            _ => world.change(parity, |bytes| {
                let last = bytes.len() - 1;
                bytes[0] ^= 1;
                bytes[last] ^= 1;
            }),
        }
        world.change(pack, |bytes| spoil(&mut random, bytes, lost));
        let damaged = world.read(pack);
        let repository = world.repository.open();
        let session = repository.storage().open_session(b"{}").expect("opens");
        let rebuilt = rebuild_pack(repository.storage(), session.id(), world.pack);
        assert!(matches!(rebuilt, Ok(Rebuild::Not(_))), "{what}");
        drop(session);
        assert!(world.read(pack) == damaged, "{what}: it was touched");
        let report = world.repair();
        assert!(report.rebuilt.is_empty() && report.is_set_aside, "{what}");
        let problem = &report.damaged[0].problem;
        assert!(problem.contains("parity does not heal it"), "{problem}");
        let aside = world
            .repository
            .path()
            .join("damaged")
            .join(world.pack.to_hex());
        assert!(fs::read(aside).expect("it is kept") == damaged, "{what}");
        let hurts = report.remaining.iter().flat_map(|fault| &fault.hurts);
        assert!(
            hurts.count() > 0,
            "{what}: bytes that are lost were accepted"
        );
    }
}

#[test]
fn parity_of_other_bytes_is_not_believed() {
    let world = World::new(None, seed());
    let (pack, parity) = (Name::Pack(world.pack), Name::Parity(world.pack));
    let whole = world.read(pack);
    // Whoever can write here can make parity for anything: under another pack's name.
    let repository = world.repository.open();
    let storage = repository.storage();
    world.change(pack, |bytes| bytes[100] ^= 1);
    let session = storage.open_session(b"{}").expect("opens");
    let made = cairn_engine::pack::make_parity(storage, session.id(), world.pack, world.layout);
    made.expect("it is made of whatever is there");
    drop(session);
    world.change(pack, |bytes| bytes[5000] ^= 1);
    let report = world.repair();
    assert!(report.rebuilt.is_empty(), "{report:?}");
    assert!(report.damaged[0].problem.contains("hash"), "{report:?}");
    fs::write(world.path(pack), &whole).expect("writable");
    let report = world.repository.verify();
    let faults: Vec<_> = report.faults.iter().map(|fault| &fault.object).collect();
    assert_eq!(faults, [&parity.path()]);
    assert_eq!(world.repair().renewed_parity, [world.pack]);
    world.assert_whole("renewed");
}

#[test]
fn blocks_that_the_medium_does_not_give_back_are_computed() {
    for passphrase in [None, Some("correct horse")] {
        let seed = seed();
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::new(passphrase, seed);
        let (pack, whole) = (Name::Pack(world.pack), world.read(Name::Pack(world.pack)));
        let behind: SharedStorage =
            Arc::new(Folder::open_at(&world.repository.path()).expect("opens"));
        let objects = Objects::load(Arc::clone(&behind));
        for block in all_that_can_be_lost(&mut random, &world.layout) {
            let at = (block * BLOCK + random.usize(..BLOCK)) as u64;
            objects.break_range(pack, at..at + 1, EIO);
        }
        // What is written goes to the folder behind.
        world.change(pack, |bytes| bytes.clear());
        let storage: SharedStorage = objects;
        let session = storage.open_session(b"{}").expect("opens");
        let rebuilt = rebuild_pack(&storage, session.id(), world.pack).expect("it is tried");
        let Rebuild::Done(rebuilt) = rebuilt else {
            panic!("there is enough parity");
        };
        assert!(rebuilt.blocks() as usize > world.capacity() / 2);
        rebuilt.publish(&storage).expect("published");
        drop(session);
        assert!(world.read(pack) == whole);
        world.assert_whole("bad sectors");
    }
}

#[test]
fn a_lack_of_files_is_no_damage() {
    let world = World::with(None, seed(), 600_000, PERCENT);
    let behind: SharedStorage = Arc::new(Folder::open_at(&world.repository.path()).expect("opens"));
    let objects = Objects::load(Arc::clone(&behind));
    let (emfile, pack) = (24, Name::Pack(world.pack));
    objects.break_range(pack, 9000..9001, emfile);
    let storage: SharedStorage = objects;
    let session = storage.open_session(b"{}").expect("opens");
    let error = rebuild_pack(&storage, session.id(), world.pack).err();
    let error = RepositoryError::from(error.expect("it cannot be read now"));
    assert!(!error.is_damage(), "{error:?}");
}

#[test]
fn a_pack_that_is_gone_comes_back_where_parity_is_as_much() {
    for (disk_len, percent) in [(700_000, 100), (2000, 1)] {
        let world = World::with(Some("correct horse"), seed(), disk_len, percent);
        let packs = world.repository.open().storage().list(Area::Packs);
        let packs = packs.expect("listed");
        for pack in &packs {
            let whole = world.read(pack.name);
            fs::remove_file(world.path(pack.name)).expect("removed");
            let report = world.repair();
            let blocks = whole.len().div_ceil(BLOCK);
            let is_enough = percent == 100 || blocks == 1;
            assert_eq!(report.rebuilt.len(), usize::from(is_enough), "{report:?}");
            if !is_enough {
                fs::write(world.path(pack.name), &whole).expect("writable");
            }
            assert!(world.read(pack.name) == whole);
            world.assert_whole("a lost pack");
        }
    }
}

#[test]
fn verify_names_what_is_wrong_with_parity() {
    let world = World::with(None, seed(), 600_000, PERCENT);
    let (parity, whole) = (
        Name::Parity(world.pack),
        world.read(Name::Parity(world.pack)),
    );
    for at in [0, 70, world.layout.directory_len() + 9, whole.len() - 1] {
        world.change(parity, |bytes| bytes[at] ^= 1);
        let report = world.repository.verify();
        let [fault] = report.faults.as_slice() else {
            panic!("{at}: {:?}", report.faults);
        };
        assert_eq!(
            (fault.kind, &fault.object),
            (FaultKind::Parity, &parity.path())
        );
        assert!(fault.hurts.is_empty());
        fs::write(world.path(parity), &whole).expect("writable");
    }
    fs::remove_file(world.path(parity)).expect("removed");
    let report = world.repository.verify();
    assert!(report.faults.is_empty());
    assert_eq!(report.without_parity, 1);
    assert_eq!(world.repair().renewed_parity, [world.pack]);
    assert!(world.read(parity) == whole);
    world.assert_whole("made");
}
