//! Raw files: whole, sparse, and never half-written under their name.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use cairn_engine::limits::MIB;
use cairn_engine::target::{Abandoned, Target, TargetError, TargetFormat, TargetOptions, create};

use super::support::mounts::Mount;
use super::target_support::{Disk, names, run_ok, text};

fn options(size: u64, overwrite: bool) -> TargetOptions {
    TargetOptions {
        format: TargetFormat::Raw,
        size,
        overwrite,
    }
}

fn begin(path: &Path, disk: &Disk, overwrite: bool) -> Box<dyn Target> {
    create(path, &options(disk.size(), overwrite)).expect("the target can be made")
}

#[test]
fn a_raw_file_has_the_disks_bytes_and_holes() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("disk.raw");
    let mut rng = fastrand::Rng::with_seed(1);
    for size in [0, 1, 511, 65_536, 3 * MIB + 17, 40 * MIB + 4097] {
        let disk = Disk::random(&mut rng, size, 40);
        let target = begin(&path, &disk, true);
        disk.write_to(&*target, size).expect("there is space");
        assert_ne!(names(folder.path())[0], "disk.raw.partial");
        let finished = target.finish().expect("there is space");
        assert_eq!((&finished.path, finished.size), (&path, size));
        assert!(
            fs::read(&path).expect("it is there") == disk.bytes,
            "{size}"
        );
        let allocated = fs::metadata(&path).expect("it is there").blocks() * 512;
        assert!(
            allocated <= disk.data_bytes() + 64 * 1024,
            "{allocated} of {size}"
        );
        assert_eq!(names(folder.path()), ["disk.raw"]);
    }
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("disk.raw");
    let disk = Disk::random(&mut fastrand::Rng::with_seed(2), 4 * MIB, 50);
    let target = begin(&path, &disk, false);
    disk.write_to(&*target, 2).expect("there is space");
    let unfinished = names(folder.path());
    assert!(
        unfinished[0].starts_with(".disk.raw.cairn-"),
        "{unfinished:?}"
    );
    assert!(unfinished[0].ends_with(".partial"), "{unfinished:?}");
    assert_eq!(target.abandon(), Abandoned::Nothing);
    assert_eq!(names(folder.path()), [""; 0]);

    drop(begin(&path, &disk, false));
    assert_eq!(names(folder.path()), [""; 0]);
}

/// A process that was killed holds no lock any more; one that writes does.
#[test]
fn the_leftover_of_a_killed_restore_goes_with_the_next_one_and_no_other() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("disk.raw");
    let disk = Disk::random(&mut fastrand::Rng::with_seed(2), MIB, 50);
    let at_work = begin(&path, &disk, false);
    let writes = names(folder.path()).remove(0);
    let stay = [
        ".disk.raw.cairn-1-0.partial.bak",
        ".disk.raw.cairn-x-0.partial",
        ".disk.raw2.cairn-1-0.partial",
    ];
    for name in [
        ".disk.raw.cairn-1-0.partial",
        ".disk.raw.cairn-77-3.partial",
    ] {
        fs::write(folder.path().join(name), b"half").expect("there is space");
    }
    for name in stay {
        fs::write(folder.path().join(name), b"not ours").expect("there is space");
    }
    let second = begin(&path, &disk, false);
    let there = names(folder.path());
    assert!(there.contains(&writes), "{there:?}");
    for name in stay {
        assert!(there.iter().any(|it| it == name), "{name}: {there:?}");
    }
    // Those, and the two that are written.
    assert_eq!(there.len(), stay.len() + 2, "{there:?}");
    drop((at_work, second));
    assert_eq!(names(folder.path()).len(), stay.len());
}

#[test]
fn nothing_is_overwritten_without_leave() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("disk.raw");
    let disk = Disk::random(&mut fastrand::Rng::with_seed(3), MIB, 100);
    fs::write(&path, "mine").expect("scratch folder");
    let refused = create(&path, &options(disk.size(), false)).map(|_| ());
    assert!(
        matches!(refused, Err(TargetError::Exists { .. })),
        "{refused:?}"
    );
    assert_eq!(names(folder.path()), ["disk.raw"]);

    // With leave, the old file stays until the new one is whole.
    let target = begin(&path, &disk, true);
    disk.write_to(&*target, 3).expect("there is space");
    assert_eq!(fs::read(&path).expect("it is there"), b"mine");
    target.finish().expect("there is space");
    assert!(fs::read(&path).expect("it is there") == disk.bytes);

    // Someone makes a file of that name while the restore is at work.
    let other = folder.path().join("other.raw");
    let target = begin(&other, &disk, false);
    disk.write_to(&*target, 3).expect("there is space");
    fs::write(&other, "theirs").expect("scratch folder");
    let refused = target.finish();
    assert!(
        matches!(refused, Err(TargetError::Exists { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read(&other).expect("it is there"), b"theirs");
    assert_eq!(names(folder.path()), ["disk.raw", "other.raw"]);
}

#[test]
fn folders_and_pipes_are_no_targets() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let pipe = folder.path().join("pipe");
    run_ok("coreutils", "mkfifo", &[text(&pipe)]);
    assert!(fs::metadata(&pipe).expect("made").file_type().is_fifo());
    for path in [folder.path(), &pipe] {
        let refused = create(path, &options(1, true)).map(|_| ());
        assert!(
            matches!(refused, Err(TargetError::NotAFile { .. })),
            "{refused:?}"
        );
    }
    let nowhere = folder.path().join("no/such/folder");
    let refused = create(&nowhere, &options(1, true)).map(|_| ());
    assert!(
        matches!(refused, Err(TargetError::Io { op: "create", .. })),
        "{refused:?}"
    );
}

#[test]
fn a_link_keeps_pointing_to_what_was_restored() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, "old").expect("scratch folder");
    std::os::unix::fs::symlink(&file, &link).expect("scratch folder");
    let disk = Disk::random(&mut fastrand::Rng::with_seed(4), MIB, 100);
    let target = begin(&link, &disk, true);
    disk.write_to(&*target, 4).expect("there is space");
    target.finish().expect("there is space");
    assert!(
        fs::symlink_metadata(&link)
            .expect("it is there")
            .is_symlink()
    );
    assert!(fs::read(&file).expect("it is there") == disk.bytes);
}

#[test]
fn a_full_medium_is_said_to_be_full() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let _small = Mount::small(folder.path(), MIB);
    for format in [TargetFormat::Raw, TargetFormat::Qcow2] {
        let path = folder.path().join("disk");
        let disk = Disk::random(&mut fastrand::Rng::with_seed(5), 4 * MIB, 100);
        let options = TargetOptions {
            format,
            ..options(disk.size(), false)
        };
        let target = create(&path, &options).expect("an empty file fits");
        let full = disk.write_to(&*target, 5);
        assert!(matches!(full, Err(TargetError::NoSpace { .. })), "{full:?}");
        let refused = target.finish();
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
