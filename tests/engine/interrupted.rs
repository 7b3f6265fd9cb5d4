//! A backup that is told to stop publishes nothing and leaves nothing behind but what the next
//! run can use.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use cairn_engine::backup::BackupError;
use cairn_engine::extent::Extent;
use cairn_engine::format::pack::PackKind;
use cairn_engine::progress::Cancel;
use cairn_engine::repository::{Access, Contents};
use cairn_engine::source::{Source, SourceError};

use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::{chain, small_settings};
use crate::support::{
    MemorySource, TestRepository, assert_clean, backup_source, random_disk, seed, snapshot,
};

/// A disk that asks to stop once it was read so many times.
struct Stopping {
    disk: MemorySource,
    reads_left: AtomicUsize,
    cancel: Cancel,
}

impl Source for Stopping {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        self.disk.extents(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        if self.reads_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.cancel.cancel();
        }
        self.disk.read_at(offset, buf)
    }

    fn has_unchanged(&self) -> bool {
        self.disk.has_unchanged()
    }
}

/// Backs up until `cancel` says no more; the source itself asks to stop at a read.
fn run(
    repository: &TestRepository,
    bytes: &[u8],
    reads: usize,
    cancel: &Cancel,
) -> Result<(), BackupError> {
    let source = Stopping {
        disk: MemorySource::new(bytes.to_vec()),
        reads_left: AtomicUsize::new(reads),
        cancel: cancel.clone(),
    };
    backup_source(&repository.open(), Box::new(source), false, None, cancel).map(drop)
}

/// Returns the plain bytes of all chunks that packs hold.
fn stored_bytes(repository: &TestRepository) -> u64 {
    let contents = Contents::open(&repository.open(), Access::Read(Vec::new()), "test");
    let contents = contents.expect("opens");
    let mut seen = HashSet::new();
    let mut sum = 0;
    for pack in contents.packs().iter() {
        let reader = contents.footer(*pack).expect("a finished pack is whole");
        if reader.header().kind == PackKind::Data {
            let new = reader
                .footer()
                .entries
                .iter()
                .filter(|entry| seen.insert(entry.id));
            sum += new.map(|entry| u64::from(entry.len)).sum::<u64>();
        }
    }
    sum
}

fn check_nothing_but_packs(repository: &TestRepository, context: &str) {
    let opened = repository.open();
    assert!(
        opened.snapshots().expect("listed").snapshots.is_empty(),
        "{context}: published"
    );
    assert_clean(&verify_fresh(&opened).expect("verify runs"));
    drop(opened);
    for folder in ["tmp", "locks"] {
        let left = repository
            .path()
            .join(folder)
            .read_dir()
            .expect("listed")
            .count();
        assert_eq!(left, 0, "{context}: {folder}");
    }
}

/// Checks that the next backup stores what is not there yet, and nothing more.
fn check_next(repository: &TestRepository, bytes: &[u8], whole: u64, context: &str) {
    let before = stored_bytes(repository);
    let done = repository.backup(MemorySource::new(bytes.to_vec()), None);
    let done = done.unwrap_or_else(|error| panic!("{context}: {}", chain(&error)));
    assert_eq!(
        done.manifest.disks[0].new_bytes,
        whole - before,
        "{context}: reused {before}"
    );
    let opened = repository.open();
    let restored = restore_fresh(&opened, &snapshot(&opened, done.snapshot)).expect("restores");
    assert!(restored == bytes, "{context}: other bytes");
}

#[test]
fn told_to_stop_at_any_moment() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let bytes = random_disk(&mut random, 52 << 20);
    let make = || {
        TestRepository::with(None, |settings| {
            *settings = small_settings();
            settings.pack_len = 1 << 20;
        })
    };
    let all = make();
    all.backup(MemorySource::new(bytes.clone()), None)
        .expect("backs up");
    let whole = stored_bytes(&all);
    let mut reused = 0;
    for round in 0..10 {
        let (repository, cancel) = (make(), Cancel::default());
        let context = format!("seed {seed}, round {round}");
        let result = if round < 4 {
            run(&repository, &bytes, [1, 40, 200, 400][round], &cancel)
        } else {
            thread::scope(|scope| {
                scope.spawn(|| {
                    // sleeps: so that the moment is another each time.
                    thread::sleep(Duration::from_millis(random.u64(0..250)));
                    cancel.cancel();
                });
                run(&repository, &bytes, usize::MAX, &cancel)
            })
        };
        match result {
            Ok(()) => continue,
            Err(BackupError::Cancelled) => {}
            Err(error) => panic!("{context}: {}", chain(&error)),
        }
        check_nothing_but_packs(&repository, &context);
        reused += stored_bytes(&repository);
        check_next(&repository, &bytes, whole, &context);
    }
    assert!(reused > 0, "no stopped run left anything to use");
}

#[test]
fn a_source_that_cannot_be_read_fails_the_backup_and_names_disk_and_offset() {
    let mut random = fastrand::Rng::with_seed(seed());
    let repository = TestRepository::with(None, |settings| *settings = small_settings());
    let mut bytes = random_disk(&mut random, 40 << 20);
    bytes[20 << 20..][..65_536].fill_with(|| random.u8(..));
    let mut source = MemorySource::new(bytes);
    source.broken = Some((20 << 20) + 100..(20 << 20) + 101);
    let error = repository.backup(source, None).expect_err("a read fails");
    let text = chain(&error);
    assert!(matches!(error, BackupError::Source { .. }), "{text}");
    assert!(text.contains("vda") && text.contains("memory"), "{text}");
    check_nothing_but_packs(&repository, "a read failed");
}
