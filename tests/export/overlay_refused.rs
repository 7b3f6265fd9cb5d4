//! What is no overlay of this disk is refused, and stays as it is.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cairn_engine::id::{NodeId, RepositoryId, SnapshotId};
use cairn_nbd_export::disk::WriteDisk;
use cairn_nbd_export::log::Event;
use cairn_nbd_export::overlay::{Opened, Origin, Overlay, OverlayError};

use crate::overlay_world::{MemoryDisk, open, origin, read_all, scratch};
use crate::support::waiting::wait_for;

fn base() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk(vec![5; 1 << 20]))
}

fn made(path: &Path) {
    let overlay = open(path, &base()).expect("is made");
    overlay.write_at(0, &[1; 5000]).expect("writes");
    overlay.flush().expect("flushes");
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.expect("is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("is readable");
    byte[0] ^= 0x20;
    file.write_all_at(&byte, at).expect("is written");
}

#[test]
fn what_is_no_overlay() {
    let (folder, path) = scratch();
    for content in [&b""[..], b"#!/bin/sh\n", &[0; 10_000]] {
        fs::write(&path, content).expect("is written");
        let refused = open(&path, &base());
        assert!(
            matches!(refused, Err(OverlayError::NotAnOverlay { .. })),
            "{refused:?}"
        );
        assert_eq!(fs::read(&path).expect("is there"), content);
    }
    let refused = open(folder.path(), &base());
    assert!(
        matches!(refused, Err(OverlayError::Io { .. })),
        "{refused:?}"
    );
    let refused = open(Path::new("/dev/null"), &base());
    assert!(
        matches!(refused, Err(OverlayError::NotAnOverlay { .. })),
        "{refused:?}"
    );
    let refused = open(&folder.path().join("missing/overlay"), &base());
    assert!(
        matches!(refused, Err(OverlayError::Io { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_overlay_of_another_disk() {
    let (_folder, path) = scratch();
    made(&path);
    let others = [
        (
            "repository",
            Origin {
                repository: RepositoryId::from_bytes([9; 32]),
                ..origin()
            },
        ),
        (
            "snapshot",
            Origin {
                snapshot: SnapshotId::from_bytes([9; 32]),
                ..origin()
            },
        ),
        (
            "target",
            Origin {
                target: "vdb".into(),
                ..origin()
            },
        ),
        (
            "recipe",
            Origin {
                recipe: NodeId::from_bytes([9; 32]),
                ..origin()
            },
        ),
    ];
    for (expected, other) in others {
        let refused = Overlay::open(&path, base(), &other, &|_| {});
        assert!(
            matches!(refused, Err(OverlayError::OtherDisk { what, .. }) if what == expected),
            "{refused:?}"
        );
    }
    let longer = Arc::new(MemoryDisk(vec![5; (1 << 20) + 1]));
    let refused = open(&path, &longer).expect_err("another size");
    assert_eq!(
        refused.to_string(),
        format!(
            "the overlay {} belongs to disk size 1048576, not 1048577",
            path.display()
        )
    );
    assert_eq!(
        read_all(&open(&path, &base()).expect("opens"))[4999..5001],
        [1, 5]
    );
}

#[test]
fn one_that_is_in_use() {
    let (_folder, path) = scratch();
    let overlay = open(&path, &base()).expect("is made");
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let log = move |event: &Event<'_>| {
        assert!(matches!(event, Event::OverlayAwaited { .. }), "{event:?}");
        count.fetch_add(1, Ordering::SeqCst);
    };
    let refused = Overlay::open(&path, base(), &origin(), &log);
    assert!(
        matches!(refused, Err(OverlayError::InUse { .. })),
        "{refused:?}"
    );
    assert_eq!(told.load(Ordering::SeqCst), 1, "is told that it waits");
    drop(overlay);
    assert_eq!(open(&path, &base()).expect("opens").opened(), Opened::Whole);
}

/// Returns how often this process has a file open.
fn open_files(path: &Path) -> usize {
    let files = fs::read_dir("/proc/self/fd").expect("this process has files");
    let files = files.flatten().map(|file| fs::read_link(file.path()));
    files
        .filter(|file| file.as_ref().is_ok_and(|file| file == path))
        .count()
}

#[test]
fn one_that_is_removed_while_it_is_waited_for() {
    let (_folder, path) = scratch();
    let overlay = open(&path, &base()).expect("is made");
    overlay.write_at(0, &[1; 4096]).expect("writes");
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| open(&path, &base()));
        wait_for("the other has it open", || open_files(&path) == 2);
        fs::remove_file(&path).expect("is there");
        drop(overlay);
        waiting.join().expect("does not panic")
    });
    assert_eq!(waiting.expect("is made").opened(), Opened::New);
    assert!(path.exists());
}

#[test]
fn one_of_a_later_version() {
    let (_folder, path) = scratch();
    made(&path);
    flip(&path, 16);
    let refused = open(&path, &base());
    assert!(
        matches!(
            refused,
            Err(OverlayError::UnsupportedVersion {
                found: 33,
                supported: 1,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_damaged_one() {
    let (_folder, path) = scratch();
    made(&path);
    // The header, and the first sector of either map.
    for at in [30, 4095, 8192, 8192 + 100, 12_288, 12_288 + 20] {
        flip(&path, at);
        let refused = open(&path, &base());
        assert!(
            matches!(refused, Err(OverlayError::Damaged { .. })),
            "{at}: {refused:?}"
        );
        flip(&path, at);
    }
    assert_eq!(
        read_all(&open(&path, &base()).expect("opens"))[4999..5001],
        [1, 5]
    );
    let file = fs::File::options()
        .write(true)
        .open(&path)
        .expect("is there");
    file.set_len((2 << 20) - 1).expect("is cut");
    let refused = open(&path, &base());
    assert!(
        matches!(refused, Err(OverlayError::Damaged { .. })),
        "{refused:?}"
    );
}

#[test]
fn after_another_boot_only_what_was_flushed_counts() {
    let (_folder, path) = scratch();
    made(&path);
    let overlay = open(&path, &base()).expect("opens");
    overlay.write_at(8192, &[2; 4096]).expect("writes");
    // As if the process were killed: nothing is flushed.
    let copy = path.with_extension("copy");
    fs::copy(&path, &copy).expect("is copied");
    // The state, which holds for another boot than this.
    flip(&copy, 4096);
    let later = open(&copy, &base()).expect("opens");
    assert_eq!(later.opened(), Opened::AfterPowerCut { dropped: 4096 });
    let bytes = read_all(&later);
    assert_eq!(bytes[4999..5001], [1, 5]);
    assert!(bytes[5000..].iter().all(|byte| *byte == 5));
    drop(later);
    let again = open(&copy, &base()).expect("opens");
    assert_eq!(again.opened(), Opened::Whole);
}
