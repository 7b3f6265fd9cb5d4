//! Reads that the system refuses: one bad sector is a fault like any other, and ends no verify.

use cairn_engine::format::pack::PackKind;
use cairn_engine::id::PackId;
use cairn_engine::repository::{Access, Contents};
use cairn_engine::storage::Name;
use cairn_engine::storage::sim::{Fault, FaultKind as DiskFault, FaultOn, SimFs};
use cairn_engine::verify::FaultKind;

use crate::support::memory::{restore_in, verify_in};
use crate::support::packs::MemoryRepository;
use crate::support::sim::{chain, init_on, open_on, scratch, small_settings};
use crate::support::{MemorySource, TestRepository, assert_clean, backup, seed};

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;

fn disk(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = vec![0; 2 << 20];
    bytes[65_536..].fill_with(|| random.u8(b'a'..=b'p'));
    bytes
}

fn world() -> MemoryRepository {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = TestRepository::with(None, |settings| {
        *settings = small_settings();
        // So long that a footer is read without most of the frames.
        settings.pack_len = 512 * 1024;
    });
    let source = MemorySource::new(disk(&mut random));
    folder.backup(source, None).expect("backs up");
    MemoryRepository::load(folder)
}

/// Returns a data pack with several frames, and the bytes of its second one.
fn frame(world: &MemoryRepository) -> (PackId, std::ops::Range<u64>) {
    let contents = world.contents();
    let packs = world.packs(PackKind::Data).into_keys();
    let mut readers = packs.map(|pack| contents.footer(pack).expect("it is whole"));
    let reader = readers.find(|reader| reader.footer().frames.len() > 20);
    let reader = reader.expect("there are packs of many frames");
    let frame = &reader.footer().frames[1];
    (
        reader.id(),
        frame.offset..frame.offset + u64::from(frame.stored_len),
    )
}

#[test]
fn a_bad_sector_is_a_fault_of_its_pack_and_hides_no_other() {
    let world = world();
    let list = world.repository.snapshots().expect("snapshots are listed");
    let (pack, range) = frame(&world);
    let other = world
        .packs(PackKind::Data)
        .into_keys()
        .find(|it| *it != pack);
    let other = other.expect("there are several packs");
    for range in [range.start..range.start + 1, 0..10] {
        world
            .objects
            .break_range(Name::Pack(pack), range.clone(), EIO);
        world.objects.flip(&Name::Pack(other), 60, 1);
        let report = verify_in(&world.contents(), &list).expect("verify goes on");
        world.objects.flip(&Name::Pack(other), 60, 1);
        world.objects.heal();
        let mut objects: Vec<_> = report.faults.iter().map(|it| it.object.clone()).collect();
        objects.sort();
        let mut expected = [Name::Pack(pack).path(), Name::Pack(other).path()];
        expected.sort();
        assert_eq!(objects, expected, "{:#?}", report.faults);
        assert!(report.faults.iter().all(|fault| !fault.hurts.is_empty()));
        let fault = report
            .faults
            .iter()
            .find(|it| it.object == Name::Pack(pack).path());
        let kind = fault.map(|fault| fault.kind);
        let expected = match range.start {
            0 => FaultKind::Pack,
            _ => FaultKind::Content,
        };
        assert_eq!(kind, Some(expected), "{:#?}", report.faults);
    }
    assert_clean(&verify_in(&world.contents(), &list).expect("verify goes on"));
}

#[test]
fn what_this_process_lacks_is_no_damage() {
    let world = world();
    let list = world.repository.snapshots().expect("snapshots are listed");
    let (pack, range) = frame(&world);
    for (errno, is_damage) in [(EIO, true), (EMFILE, false), (EACCES, false)] {
        let contents = world.contents();
        world
            .objects
            .break_range(Name::Pack(pack), range.clone(), errno);
        let restored = restore_in(&contents, &list.snapshots[0]);
        let verified = verify_in(&contents, &list);
        world.objects.heal();
        let error = restored.expect_err("a frame cannot be read");
        assert_eq!(error.is_damage(), is_damage, "{errno}: {}", chain(&error));
        assert_eq!(verified.is_err(), !is_damage, "{errno}: {verified:?}");
    }
}

#[test]
fn every_read_may_fail_once() {
    let mut random = fastrand::Rng::with_seed(seed());
    let (disk_of, cache) = (SimFs::new(random.u64(..)), scratch());
    let repository = init_on(&disk_of, cache.path()).expect("the repository is made");
    let source = MemorySource::new(disk(&mut random));
    backup(&repository, source, None, &Default::default()).expect("backs up");
    drop(repository);
    let repository = open_on(&disk_of, cache.path()).expect("opens");
    let open = || Contents::open(&repository, Access::Read(Vec::new()), "verify").expect("opens");
    let list = repository.snapshots().expect("snapshots are listed");
    drop(open());

    let contents = open();
    let before = disk_of.read_count();
    assert_clean(&verify_in(&contents, &list).expect("nothing fails"));
    let count = disk_of.read_count() - before;
    let (mut named, mut refused) = (0, 0);
    for call in 0..count {
        let contents = open();
        disk_of.inject(Fault {
            on: FaultOn::Reads,
            at: disk_of.read_count() + call,
            lasting: false,
            kind: DiskFault::Io,
        });
        let verified = verify_in(&contents, &list);
        disk_of.heal();
        match verified {
            Ok(report) => {
                let is_named = |object: &str| object.starts_with("packs/");
                assert!(
                    report.faults.iter().all(|fault| is_named(&fault.object)),
                    "{report:?}"
                );
                named += usize::from(!report.faults.is_empty());
            }
            Err(error) => {
                assert!(chain(&error).contains("list"), "{}", chain(&error));
                refused += 1;
            }
        }
    }
    assert!(
        named > count / 2 && refused < count / 10,
        "{named}, {refused} of {count}"
    );
    assert_clean(&verify_in(&open(), &list).expect("nothing fails"));
}
