//! Backups into one repository at once, and restores and verifies beside them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cairn_engine::id::SnapshotId;
use cairn_engine::progress::Cancel;

use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::{chain, small_settings};
use crate::support::{
    MemorySource, TestRepository, assert_clean, backup, child, edit, open_at, options_at,
    random_disk, seed, snapshot,
};

/// Backs up three versions of a disk that all writers have much of, and returns them.
fn writer(repository: &TestRepository, common: &[u8], seed: u64) -> Vec<(SnapshotId, Vec<u8>)> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = common.to_vec();
    let mut made: Vec<(SnapshotId, Vec<u8>)> = Vec::new();
    for _ in 0..3 {
        let source = match made.last() {
            None => MemorySource::new(bytes.clone()),
            Some((_, before)) => MemorySource::changed_since(before, bytes.clone(), false),
        };
        let parent = made.last().map(|(id, _)| *id);
        let done = backup(&repository.open(), source, parent, &Cancel::default());
        let done = done.unwrap_or_else(|error| panic!("{}", chain(&error)));
        made.push((done.snapshot, bytes.clone()));
        edit(&mut random, &mut bytes);
    }
    made
}

fn all_at_once(passphrase: Option<&'static str>) {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let repository = TestRepository::with(passphrase, |settings| {
        *settings = small_settings();
        settings.pack_len = 256 * 1024;
    });
    let common = random_disk(&mut random, 3_000_000);
    let first = repository
        .backup(MemorySource::new(common.clone()), None)
        .expect("backs up");
    let done = AtomicBool::new(false);
    let made = thread::scope(|scope| {
        let (repository, common, done) = (&repository, &common, &done);
        let readers: Vec<_> = (0..2)
            .map(|number| {
                scope.spawn(move || {
                    let mut rounds = 0;
                    while !done.load(Ordering::Relaxed) || rounds == 0 {
                        let opened = repository.open();
                        if number == 0 {
                            let restored =
                                restore_fresh(&opened, &snapshot(&opened, first.snapshot));
                            assert!(restored.expect("restores") == *common);
                        } else {
                            assert_clean(&verify_fresh(&opened).expect("verify runs"));
                        }
                        rounds += 1;
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (1..=3)
            .map(|number| scope.spawn(move || writer(repository, common, seed ^ number)))
            .collect();
        let made: Vec<_> = writers
            .into_iter()
            .flat_map(|it| it.join().expect("ends"))
            .collect();
        done.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .for_each(|reader| reader.join().expect("ends"));
        made
    });
    let opened = repository.open();
    assert_clean(&verify_fresh(&opened).expect("verify runs"));
    assert_eq!(opened.snapshots().expect("listed").snapshots.len(), 10);
    for (id, bytes) in made {
        let restored = restore_fresh(&opened, &snapshot(&opened, id)).expect("restores");
        assert!(restored == bytes, "seed {seed}: {id} came back otherwise");
    }
    // The index is complete, whoever wrote it last.
    let again = repository
        .backup(MemorySource::new(common), None)
        .expect("backs up");
    assert_eq!(again.manifest.disks[0].new_chunks, 0);
    let names = |folder: &str| {
        repository
            .path()
            .join(folder)
            .read_dir()
            .expect("listed")
            .count()
    };
    assert_eq!((names("tmp"), names("locks")), (0, 0));
}

#[test]
fn threads_of_one_process() {
    all_at_once(None);
}

#[test]
fn threads_of_one_process_on_an_encrypted_repository() {
    all_at_once(Some("correct horse"));
}

/// Returns the disk that the process of this number backs up.
fn disk_of(number: u64) -> Vec<u8> {
    let mut bytes = random_disk(&mut fastrand::Rng::with_seed(1), 4_000_000);
    edit(&mut fastrand::Rng::with_seed(number), &mut bytes);
    bytes
}

/// Not a test: a process that `processes_of_their_own` starts.
#[test]
fn one_of_many() {
    let Some(told) = child::told() else { return };
    let number = told
        .extension()
        .and_then(|number| number.to_str()?.parse().ok());
    let number = number.expect("the parent gives a number");
    let path = told.with_extension("");
    let repository = open_at(&path, &options_at(&path), None);
    let repository = repository.expect("the repository opens");
    let source = MemorySource::new(disk_of(number));
    backup(&repository, source, None, &Cancel::default()).expect("backs up");
}

#[test]
fn processes_of_their_own() {
    let repository = TestRepository::with(None, |settings| *settings = small_settings());
    let children: Vec<_> = (0..4)
        .map(|number| {
            let told = repository.path().with_extension(number.to_string());
            child::start("two_at_once::one_of_many", told.as_os_str())
        })
        .collect();
    children
        .into_iter()
        .for_each(|started| drop(child::finish(started)));
    let opened = repository.open();
    assert_clean(&verify_fresh(&opened).expect("verify runs"));
    let list = opened.snapshots().expect("listed").snapshots;
    let mut disks: Vec<Vec<u8>> = (0..4).map(disk_of).collect();
    for snapshot in &list {
        let restored = restore_fresh(&opened, snapshot).expect("restores");
        let at = disks.iter().position(|disk| *disk == restored);
        drop(disks.swap_remove(at.expect("it is one of the disks")));
    }
    assert!(disks.is_empty());
}
