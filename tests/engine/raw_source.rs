//! Raw files: bytes, holes, odd sizes, and files that are cut short meanwhile.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use cairn_engine::extent::{Extent, ExtentStatus};
use cairn_engine::source::raw::RawSource;
use cairn_engine::source::{Source, SourceError};

use crate::qemu::{Folder, MIB, check_source, mixed_bytes, seeded};
use crate::support::waiting::PATIENCE;

fn open(path: &Path) -> RawSource {
    RawSource::open(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn bytes_are_the_files_whatever_its_size() {
    let folder = Folder::new();
    let path = folder.path("disk.raw");
    for size in [0, 1, 511, 65_537, 5 * MIB + 3] {
        let bytes = mixed_bytes(size, &mut seeded(size));
        fs::write(&path, &bytes).expect("the disk can be written");
        check_source("raw", &open(&path), &bytes);
    }
}

#[test]
fn holes_are_zeros_and_not_read() {
    let folder = Folder::new();
    let path = folder.path("disk.raw");
    let file = fs::File::create(&path).expect("the file can be made");
    file.set_len(1 << 40).expect("sparse files can be made");
    file.write_all_at(&[7; 65_536], 1 << 30)
        .expect("it can be written");
    file.write_all_at(&[8; 65_536], 1 << 39)
        .expect("it can be written");
    let begun = Instant::now();
    let source = open(&path);
    let extents = source.extents(0..1 << 40).expect("extents can be listed");
    assert!(begun.elapsed() < PATIENCE);
    let data: Vec<&Extent> = extents
        .iter()
        .filter(|extent| extent.status == ExtentStatus::Data)
        .collect();
    let holds = |place: u64| data.iter().any(|extent| extent.range().contains(&place));
    assert!(holds(1 << 30) && holds((1 << 39) + 65_535), "{extents:?}");
    assert!(
        data.iter().map(|extent| extent.len).sum::<u64>() <= 4 * MIB,
        "{extents:?}"
    );
}

#[test]
fn a_file_cut_short_while_open_gives_an_error_with_the_offset() {
    let folder = Folder::new();
    let path = folder.path("disk.raw");
    fs::write(&path, vec![3; 4 * MIB as usize]).expect("the disk can be written");
    let source = open(&path);
    let file = OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("it can be opened");
    file.set_len(MIB).expect("it can be cut short");
    let mut buf = vec![0; MIB as usize];
    source
        .read_at(0, &mut buf)
        .expect("the start is still there");
    for offset in [MIB - 1, 2 * MIB] {
        let error = source
            .read_at(offset, &mut buf)
            .expect_err("the bytes are gone");
        assert!(matches!(&error, SourceError::Read { offset: at, .. } if *at == offset));
    }
    let error = source
        .extents(0..4 * MIB)
        .expect_err("a lost end is not a hole");
    assert!(
        matches!(error, SourceError::Read { offset: MIB, .. }),
        "{error:?}"
    );
}

#[test]
fn what_is_no_disk_is_refused() {
    let folder = Folder::new();
    let kind = |path: &Path| match RawSource::open(path).err() {
        Some(SourceError::NotADisk { kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(&folder.path(".")), "a directory");
    assert_eq!(kind(Path::new("/dev/null")), "a character device");
    let pipe = folder.path("pipe.raw");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    assert_eq!(kind(&pipe), "a pipe");
    let gone = RawSource::open(&folder.path("gone.raw")).err();
    assert!(matches!(gone, Some(SourceError::Io { op: "open", .. })));
}
