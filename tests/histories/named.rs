//! Histories that have a name: those in which other collectors lost data, and those that chance
//! comes to too seldom.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cairn_engine::backup::BackupOptions;
use cairn_engine::gc::Collection;
use cairn_engine::id::SnapshotId;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{Access, Contents, Repository, RepositoryError, Snapshot};
use cairn_engine::storage::sim::SimFs;
use jiff::Timestamp;

use super::baton::Baton;
use super::staged::Stage;
use crate::acts;
use crate::support::gc::{collect, with_gc_options};
use crate::support::memory::{restore_fresh, restore_in, verify_fresh};
use crate::support::sim::{chain, init_on, open_on, scratch};
use crate::support::{
    MemorySource, assert_clean, backup_disks, backup_source, disk_request, random_disk, snapshot,
};

const DISK_LEN: usize = 300_000;

pub fn disk(seed: u64) -> Vec<u8> {
    random_disk(&mut fastrand::Rng::with_seed(seed), DISK_LEN)
}

pub fn back_up(repository: &Arc<Repository>, bytes: &[u8]) -> SnapshotId {
    let source = Box::new(MemorySource::new(bytes.to_vec()));
    let done = backup_source(repository, source, false, None, &Cancel::default());
    done.expect("backs up").snapshot
}

pub fn check(repository: &Arc<Repository>, id: SnapshotId, bytes: &[u8], context: &str) {
    let restored = restore_fresh(repository, &snapshot(repository, id));
    let restored = restored.unwrap_or_else(|error| panic!("{context}: {}", chain(&error)));
    assert!(restored == bytes, "{context}");
    assert_clean(&verify_fresh(repository).expect("verify runs"));
}

/// A backup deduplicates against what nobody needs any more, a collection runs from end to end,
/// and only then is the snapshot published.
#[test]
fn a_collector_that_runs_while_an_old_backup_is_published_late() {
    for now in [Timestamp::now(), Timestamp::MIN, Timestamp::MAX] {
        let (fs, cache) = (SimFs::new(1), scratch());
        let repository = init_on(&fs, cache.path()).expect("makes one");
        let (old, other) = (disk(1), disk(2));
        let first = back_up(&repository, &old);
        let kept = back_up(&repository, &other);
        repository.forget(&[first]).expect("forgets");

        let (progress, cancel) = (Progress::default(), Cancel::default());
        let collected = || {
            // Other processes, which know nothing of this one but its session.
            let other = open_on(&fs.spawn(), cache.path()).map_err(|error| error.to_string())?;
            for _ in 0..3 {
                let report = collect(&other, now).map_err(|error| chain(&error))?;
                if report.waiting_for.len() != 1 {
                    return Err(format!("{report:?}"));
                }
            }
            Ok(())
        };
        let options = BackupOptions {
            before_publish: Some(&collected),
            ..BackupOptions::new(1, &progress, &cancel)
        };
        let source = Box::new(MemorySource::new(old.clone()));
        let disks = vec![disk_request("vda", source)];
        let late = backup_disks(&repository, disks, None, &options);
        let late = late.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let report = collect(&repository, now).expect("goes on");
        assert!(
            report.resumed && report.waiting_for.is_empty(),
            "{report:?}"
        );
        assert!(report.rescued > 0, "{report:?}");
        check(&repository, late.snapshot, &old, "published late");
        check(&repository, kept, &other, "kept");
    }
}

/// Clocks that run backwards between a plan and its end, and notes of the future.
#[test]
fn a_clock_that_moves() {
    let (fs, cache) = (SimFs::new(2), scratch());
    let repository = init_on(&fs, cache.path()).expect("makes one");
    let disks: Vec<Vec<u8>> = (0..3).map(disk).collect();
    let ids: Vec<SnapshotId> = disks.iter().map(|it| back_up(&repository, it)).collect();
    repository.forget(&ids[..1]).expect("forgets");
    for now in [Timestamp::MAX, Timestamp::MIN, Timestamp::now()] {
        let opened = Contents::open(&repository, Access::Write, "backup").expect("opens");
        let report = collect(&repository, now).expect("plans");
        let is_waiting = !report.waiting_for.is_empty();
        drop(opened);
        let report = collect(&repository, Timestamp::MIN).expect("goes on");
        assert!(report.waiting_for.is_empty());
        assert!(is_waiting || report.deleted_packs == 0);
        for (id, bytes) in ids.iter().zip(&disks).skip(1) {
            check(&repository, *id, bytes, "never forgotten");
        }
    }
}

#[test]
fn a_reader_keeps_what_it_reads() {
    let (fs, cache) = (SimFs::new(3), scratch());
    let repository = init_on(&fs, cache.path()).expect("makes one");
    let bytes = disk(3);
    let id = back_up(&repository, &bytes);
    let read: Snapshot = snapshot(&repository, id);
    let contents = Contents::open(&repository, Access::Read(vec![id]), "restore").expect("opens");
    repository.forget(&[id]).expect("forgets");
    let other = open_on(&fs.spawn(), scratch().path()).expect("opens");
    let report = collect(&other, Timestamp::now()).expect("collects");
    assert!(report.taken.is_empty(), "{report:?}");
    assert!(restore_in(&contents, &read).expect("restores") == bytes);
    drop(contents);
    let report = collect(&other, Timestamp::now()).expect("collects");
    assert_eq!(report.taken, [id]);
}

/// A reader that begins after the plan is refused, and one that began before it is seen.
#[test]
fn nobody_begins_to_read_what_is_to_be_taken() {
    let (fs, cache) = (SimFs::new(4), scratch());
    let repository = init_on(&fs, cache.path()).expect("makes one");
    let bytes = disk(4);
    let id = back_up(&repository, &bytes);
    repository.forget(&[id]).expect("forgets");
    let other = open_on(&fs.spawn(), cache.path()).expect("opens");
    with_gc_options(Timestamp::now(), 0.0, |options| {
        let mut collection = Collection::begin(&other, options).expect("begins");
        let planned = collection
            .plan()
            .expect("plans")
            .expect("there is something");
        let refused = Contents::open(&repository, Access::Read(vec![id]), "restore");
        let error = refused.err();
        assert!(
            matches!(&error, Some(RepositoryError::SnapshotGone(gone)) if *gone == id),
            "{error:?}"
        );
        let (plan, covered) = (planned.plan, planned.covered);
        collection.sweep(plan, Some(covered)).expect("deletes");
    });
    assert!(repository.snapshots().expect("lists").snapshots.is_empty());
}

/// A writer that begins after the plan stores anew what only condemned packs have: they go before
/// its snapshot is there for anybody to see.
#[test]
fn who_writes_after_the_plan_builds_nothing_on_what_it_condemns() {
    let (fs, cache) = (SimFs::new(7), scratch());
    let repository = init_on(&fs, cache.path()).expect("makes one");
    let bytes = disk(7);
    let id = back_up(&repository, &bytes);
    repository.forget(&[id]).expect("forgets");
    let other = open_on(&fs.spawn(), cache.path()).expect("opens");
    let late = with_gc_options(Timestamp::now(), 0.0, |options| {
        let mut collection = Collection::begin(&other, options).expect("begins");
        let planned = collection
            .plan()
            .expect("plans")
            .expect("there is something");
        let rest = RefCell::new(Some((collection, planned)));
        let deleted = || {
            let (mut collection, planned) = rest.take().ok_or("it is asked once")?;
            let done = collection.sweep(planned.plan, Some(planned.covered));
            done.map_err(|error| chain(&error))
        };
        let (progress, cancel) = (Progress::default(), Cancel::default());
        let options = BackupOptions {
            before_publish: Some(&deleted),
            ..BackupOptions::new(1, &progress, &cancel)
        };
        let source = Box::new(MemorySource::new(bytes.clone()));
        let disks = vec![disk_request("vda", source)];
        backup_disks(&repository, disks, None, &options)
    });
    let late = late.unwrap_or_else(|error| panic!("{}", chain(&error)));
    check(&repository, late.snapshot, &bytes, "written after the plan");
}

/// A process that dies at a call of the disk, of which there are so many.
fn dying(disk: &SimFs, after: u32) -> Arc<Stage> {
    Arc::new(Stage {
        baton: Arc::new(Baton::new(u64::from(after), 1, None)),
        actor: 0,
        disk: disk.spawn(),
        kill_after: AtomicU32::new(after),
        cut: Arc::new(|| {}),
    })
}

/// Killed at any call, what is there is built upon by another, and then the power is cut: what the
/// other published must not hang on what the first had not made durable.
#[test]
fn who_builds_on_what_a_dead_one_left_makes_it_durable() {
    let bytes = disk(5);
    for after in 0.. {
        let (fs, cache) = (SimFs::new(5), scratch());
        init_on(&fs, cache.path()).expect("makes one");
        let stage = dying(&fs, after);
        if let Ok(repository) = acts::open(&stage, cache.path()) {
            let source = Box::new(MemorySource::new(bytes.clone()));
            drop(backup_source(
                &repository,
                source,
                false,
                None,
                &Cancel::default(),
            ));
        }
        let has_died = stage.kill_after.load(Ordering::SeqCst) == 0;
        let fresh = scratch();
        let repository = open_on(&fs.spawn(), fresh.path()).expect("opens");
        let id = back_up(&repository, &bytes);
        for cut in 0..4 {
            let left = fs.crash_image(fs.op_count(), cut);
            let repository = open_on(&left, scratch().path()).expect("opens");
            check(
                &repository,
                id,
                &bytes,
                &format!("killed after {after}, cut {cut}"),
            );
        }
        if !has_died {
            break;
        }
    }
}

/// A collection that dies at any call, and a power cut: a snapshot that is still there is whole,
/// so that it can be brought back.
#[test]
fn while_a_manifest_is_there_so_is_all_that_it_needs() {
    let disks: Vec<Vec<u8>> = (6..9).map(disk).collect();
    for after in 0.. {
        let (fs, cache) = (SimFs::new(6), scratch());
        let repository = init_on(&fs, cache.path()).expect("makes one");
        let ids: Vec<SnapshotId> = disks.iter().map(|it| back_up(&repository, it)).collect();
        repository.forget(&ids[..2]).expect("forgets");
        let stage = dying(&fs, after);
        if let Ok(repository) = acts::open(&stage, cache.path()) {
            drop(collect(&repository, Timestamp::now()));
        }
        for cut in 0..3 {
            let left = match cut {
                0 => fs.spawn(),
                cut => fs.crash_image(fs.op_count(), cut),
            };
            let repository = open_on(&left, scratch().path()).expect("opens");
            let lock = repository.lock_collection().expect("nobody holds it");
            repository.delete_plan(&lock).expect("deletes");
            for listed in repository.snapshots().expect("lists").snapshots {
                let at = ids.iter().position(|id| *id == listed.id);
                let bytes = &disks[at.expect("one of ours")];
                let context = format!("killed after {after}, cut {cut}");
                let restored = restore_fresh(&repository, &listed);
                let restored = restored.unwrap_or_else(|e| panic!("{context}: {}", chain(&e)));
                assert!(&restored == bytes, "{context}");
            }
            let left = repository.snapshots().expect("lists").snapshots;
            assert!(!left.is_empty(), "the third was not forgotten");
        }
        if stage.kill_after.load(Ordering::SeqCst) != 0 {
            break;
        }
    }
}
