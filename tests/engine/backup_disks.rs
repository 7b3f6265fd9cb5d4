//! The disks of one backup are read at once, and are one backup all the same.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

use cairn_engine::backup::{BackupError, BackupOptions, DiskRequest};
use cairn_engine::extent::Extent;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::source::{Source, SourceError};

use crate::support::waiting::PATIENCE;
use crate::support::{
    MemorySource, TestRepository, backup_disks, disk_request, random_disk, restore_target, seed,
};

/// Where disks wait for one another.
#[derive(Default)]
struct Meeting {
    present: Mutex<Vec<&'static str>>,
    came: Condvar,
}

impl Meeting {
    /// Returns whether so many different disks are here, or have been.
    fn wait_for(&self, name: &'static str, count: usize) -> bool {
        let mut present = self.present.lock().expect("no thread panicked");
        if !present.contains(&name) {
            present.push(name);
        }
        self.came.notify_all();
        let missing = |present: &mut Vec<&str>| present.len() < count;
        let waited = self.came.wait_timeout_while(present, PATIENCE, missing);
        !waited.expect("no thread panicked").1.timed_out()
    }
}

/// A disk whose reads wait until so many disks are being read.
struct Meeter {
    disk: MemorySource,
    name: &'static str,
    count: usize,
    meeting: Arc<Meeting>,
    /// Whether it fails then.
    fails: bool,
}

impl Source for Meeter {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        self.disk.extents(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        if !self.meeting.wait_for(self.name, self.count) || self.fails {
            return Err(SourceError::Read {
                path: self.name.into(),
                offset,
                source: std::io::Error::other("on purpose, or nobody came"),
            });
        }
        self.disk.read_at(offset, buf)
    }

    fn has_unchanged(&self) -> bool {
        true
    }
}

#[test]
fn two_disks_are_read_at_once() {
    let repository = TestRepository::new();
    let mut random = fastrand::Rng::with_seed(seed());
    let meeting = Arc::new(Meeting::default());
    // Two regions each: a disk that had both threads would keep the other out.
    let bytes = ["vda", "vdb"].map(|name| (name, random_disk(&mut random, 20 << 20)));
    let disks = bytes.iter().map(|(name, bytes)| {
        let meeter = Meeter {
            disk: MemorySource::new(bytes.clone()),
            name,
            count: 2,
            meeting: Arc::clone(&meeting),
            fails: false,
        };
        disk_request(name, Box::new(meeter))
    });
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = BackupOptions::new(2, &progress, &cancel);
    let open = repository.open();
    let done = backup_disks(&open, disks.collect(), None, &options).unwrap();
    for (name, bytes) in &bytes {
        let folder = repository.folder.path();
        let restored = restore_target(&open, done.snapshot, name, folder).unwrap();
        assert!(restored == *bytes, "{name}");
    }
}

#[test]
fn records_stand_in_the_order_of_the_request() {
    let repository = TestRepository::new();
    let mut random = fastrand::Rng::with_seed(seed());
    // The first takes longest; one thread, and more threads than disks.
    let sizes = [40 << 20, 5, 3 << 20, 0, 70_000, 1 << 20, 100, 17 << 20];
    let disks: Vec<_> = sizes.map(|size| random_disk(&mut random, size)).into();
    let mut roots = Vec::new();
    for threads in [1, 3, 32] {
        let requests = disks.iter().enumerate().map(|(number, bytes)| {
            let source = MemorySource::new(bytes.clone());
            disk_request(&format!("vd{number}"), Box::new(source))
        });
        let (progress, cancel) = (Progress::default(), Cancel::default());
        let options = BackupOptions::new(threads, &progress, &cancel);
        let requests = requests.collect();
        let done = backup_disks(&repository.open(), requests, None, &options).unwrap();
        let records = &done.manifest.disks;
        let named = records.iter().map(|disk| (disk.target.clone(), disk.size));
        let wanted = sizes.iter().enumerate();
        let wanted = wanted.map(|(number, size)| (format!("vd{number}"), *size as u64));
        assert_eq!(named.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        let same: Vec<_> = records.iter().map(|disk| disk.recipe).collect();
        roots.push(same);
    }
    assert!(roots.iter().all(|same| *same == roots[0]));
}

#[test]
fn the_first_failure_counts_and_stops_the_others() {
    let repository = TestRepository::new();
    let mut random = fastrand::Rng::with_seed(seed());
    let meeting = Arc::new(Meeting::default());
    let meeter = |name, count, fails, bytes| {
        let meeting = Arc::clone(&meeting);
        let disk = MemorySource::new(bytes);
        let meeter = Meeter {
            disk,
            name,
            count,
            meeting,
            fails,
        };
        disk_request(name, Box::new(meeter))
    };
    let disks: Vec<DiskRequest> = vec![
        // Longer than what may be done ahead of its first region.
        meeter("vda", 2, false, vec![7; 80 << 20]),
        meeter("vdb", 2, true, random_disk(&mut random, 33 << 20)),
        // Never opened: it would wait in vain, and fail for that.
        meeter("vdc", 9, false, vec![1; 65_536]),
    ];
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = BackupOptions::new(2, &progress, &cancel);
    let open = repository.open();
    let error = backup_disks(&open, disks, None, &options).unwrap_err();
    let BackupError::Source { target, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(target == "vdb", "{error:?}");
    assert!(!cancel.is_cancelled(), "the caller's is the caller's");
    assert!(open.snapshots().unwrap().snapshots.is_empty());
}

#[test]
fn the_last_word_before_publishing_is_the_callers() {
    let repository = TestRepository::new();
    let open = repository.open();
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let run = |said: Result<(), String>| {
        let check = || {
            assert!(open.snapshots().unwrap().snapshots.is_empty());
            said.clone()
        };
        let options = BackupOptions {
            before_publish: Some(&check),
            ..BackupOptions::new(2, &progress, &cancel)
        };
        let source = MemorySource::new(vec![1; 100_000]);
        let disks = vec![disk_request("vda", Box::new(source))];
        backup_disks(&open, disks, None, &options)
    };
    let error = run(Err("the domain is gone".to_owned())).unwrap_err();
    assert!(
        matches!(&error, BackupError::Withdrawn { reason } if reason == "the domain is gone"),
        "{error:?}"
    );
    assert!(open.snapshots().unwrap().snapshots.is_empty());
    run(Ok(())).unwrap();
    assert_eq!(open.snapshots().unwrap().snapshots.len(), 1);
}
