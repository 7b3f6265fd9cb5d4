//! Sources say what happened to them while they were open.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use cairn_engine::limits::MIB;
use cairn_engine::source::{FileState, Source, SourceSpec, open};

use crate::qcow2_in_use::Holder;
use crate::qemu::Folder;
use crate::support::mounts::LoopDevice;

const LEN: usize = 1 << 20;

/// A raw image, opened and settled.
fn settled(path: &Path) -> Box<dyn Source> {
    let source = open(&SourceSpec::new(path)).expect("nobody has it open");
    source.settle();
    source
}

fn write(path: &Path, at: u64) {
    let file = File::options().write(true).open(path).expect("it is there");
    file.write_all_at(b"x", at).expect("it can be written");
    // What is in the cache only is nowhere yet where it is counted.
    file.sync_all().expect("the disk does not fail");
}

#[test]
fn a_write_right_after_the_opening_is_seen_and_reading_is_none() {
    let folder = Folder::new();
    let path = folder.path("a.raw");
    for _ in 0..20 {
        fs::write(&path, vec![1; LEN]).expect("it can be written");
        let source = settled(&path);
        let mut byte = [0];
        source.read_at(7, &mut byte).expect("it is there");
        assert_eq!(source.written(), None);
        write(&path, 7);
        let said = source.written().expect("it was written to");
        assert!(said.contains("a.raw was written to"), "{said}");
    }
}

#[test]
fn what_cannot_be_set_back_counts_and_so_does_a_file_that_is_gone() {
    let folder = Folder::new();
    let path = folder.path("a.raw");
    fs::write(&path, vec![1; LEN]).expect("it can be written");
    let source = settled(&path);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("it is ours");
    let said = source.written().expect("it was changed");
    assert!(said.contains("its times were set"), "{said}");
    let source = settled(&path);
    fs::remove_file(&path).expect("it is ours");
    let said = source.written().expect("it is gone");
    assert!(said.contains("cannot be looked at"), "{said}");
}

#[test]
#[expect(
    unsafe_code,
    reason = "a guest's disk may be mapped by whoever writes to it"
)]
fn a_write_to_a_page_that_was_written_to_before_is_seen() {
    // On a disk: what is kept in memory alone notes no such write.
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder can be made");
    let path = folder.path().join("a.raw");
    fs::write(&path, vec![1; LEN]).expect("it can be written");
    let file = File::options().read(true).write(true).open(&path);
    let file = file.expect("it is there");
    // SAFETY: nobody cuts the file short, and no reference into it is kept.
    let mapped = unsafe { memmap2::MmapMut::map_mut(&file) };
    let mut mapped = mapped.expect("files can be mapped");
    mapped[0] = 2;
    let source = settled(&path);
    assert_eq!(source.written(), None);
    mapped[0] = 3;
    assert!(source.written().is_some());
}

#[test]
fn a_block_device_tells_by_what_the_kernel_wrote_to_it() {
    let folder = Folder::new();
    let medium = folder.path("medium");
    fs::write(&medium, vec![1; 8 * MIB as usize]).expect("there is space");
    let device = LoopDevice::attach(&medium, &[]);
    // Written, and still on its way.
    let opened = File::options().write(true).open(device.path());
    let opened = opened.expect("it can be written");
    opened.write_all_at(&[2; 4096], 0).expect("it fits");
    assert!(
        FileState::of(device.path())
            .expect("it is there")
            .is_telling()
    );
    let source = settled(device.path());
    let mut bytes = vec![0; 8 * MIB as usize];
    source.read_at(0, &mut bytes).expect("it can be read");
    assert_eq!(source.written(), None);
    // Not flushed by whoever writes.
    opened.write_all_at(&[3; 4096], 5 * MIB).expect("it fits");
    let said = source.written().expect("it was written to");
    assert!(said.contains("was written to"), "{said}");
    drop(source);
    let _holder = Holder::new(device.path(), "raw", false);
    let refused = open(&SourceSpec::new(device.path())).err();
    let refused = refused.expect("it is held").to_string();
    assert!(refused.contains("open for writing in qemu-io"), "{refused}");
}
