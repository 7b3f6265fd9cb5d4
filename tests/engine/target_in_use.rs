//! What a QEMU holds is neither overwritten nor replaced, and what is being replaced is not opened.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cairn_engine::target::{Target, TargetError, TargetFormat, TargetOptions, create as begin};

use crate::qcow2_in_use::Holder;
use crate::qemu::{Folder, MIB, create, text, try_run};

fn restore(path: &Path, format: TargetFormat) -> Result<Box<dyn Target>, TargetError> {
    let options = TargetOptions {
        format,
        size: MIB,
        overwrite: true,
    };
    begin(path, &options)
}

#[track_caller]
fn refused(path: &Path, format: TargetFormat) {
    match restore(path, format).err() {
        Some(TargetError::InUse { by, .. }) => assert!(by.contains("qemu-io (process "), "{by}"),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_a_qemu_holds_is_left_alone() {
    let folder = Folder::new();
    let (raw, base, top) = (
        folder.path("disk.raw"),
        folder.path("base.qcow2"),
        folder.path("top.qcow2"),
    );
    fs::write(&raw, vec![1; MIB as usize]).expect("the disk can be written");
    create(&base, "cluster_size=64k", MIB);
    create(&top, "backing_file=base.qcow2,backing_fmt=qcow2", MIB);
    for read_only in [false, true] {
        // Who only reads a raw image lets others write it: QEMU itself would not mind.
        if !read_only {
            let _holder = Holder::new(&raw, "raw", read_only);
            refused(&raw, TargetFormat::Raw);
        }
        let _holder = Holder::new(&top, "qcow2", read_only);
        refused(&top, TargetFormat::Qcow2);
        // What lies below is counted on as well.
        refused(&base, TargetFormat::Raw);
    }
    let link = folder.path("link");
    std::os::unix::fs::symlink(&raw, &link).expect("a link can be made");
    let holder = Holder::new(&raw, "raw", false);
    refused(&link, TargetFormat::Raw);
    drop(holder);
    assert!(restore(&link, TargetFormat::Raw).is_ok());
}

#[test]
fn nobody_opens_what_is_being_replaced() {
    let folder = Folder::new();
    let raw = folder.path("disk.raw");
    fs::write(&raw, vec![1; MIB as usize]).expect("the disk can be written");
    let opens = || {
        let args = ["-f", "raw", "-c", "read -P 0 0 1M", text(&raw)];
        try_run("qemu-io", &args).status.success()
    };
    let target = restore(&raw, TargetFormat::Raw).unwrap_or_else(|error| panic!("{error}"));
    assert!(!opens());
    target.finish().unwrap_or_else(|error| panic!("{error}"));
    assert!(opens());
}

#[test]
fn what_came_to_the_name_meanwhile_is_looked_at_too() {
    let folder = Folder::new();
    let raw = folder.path("disk.raw");
    let target = restore(&raw, TargetFormat::Raw).unwrap_or_else(|error| panic!("{error}"));
    fs::write(&raw, vec![1; MIB as usize]).expect("the disk can be written");
    let inode = fs::metadata(&raw).expect("it is there").ino();
    let _holder = Holder::new(&raw, "raw", false);
    let finished = target.finish().err();
    assert!(
        matches!(finished, Some(TargetError::InUse { .. })),
        "{finished:?}"
    );
    assert_eq!(fs::metadata(&raw).expect("it is there").ino(), inode);
}
