//! Whole qcow2 images from outside: opened, listed and read to their ends, without a panic, and
//! without reading more than the disk has. The first byte says with which options.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use cairn_engine::source::Source;
use cairn_engine::source::qcow2::{Qcow2Options, Qcow2Source};
use libfuzzer_sys::fuzz_target;

/// As much of a disk as one input is worth.
const READ_MAX: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, image)) = bytes.split_first() else {
        return;
    };
    let options = Qcow2Options {
        snapshot: (choice & 3 == 1).then(|| "1".to_owned()),
        bitmap: (choice & 3 == 2).then(|| "b0".to_owned()),
        delta: choice & 3 == 3,
        ..Qcow2Options::default()
    };
    // Backing and data files are not allowed, so nothing is opened beside the image.
    let image = Arc::new(image.to_vec());
    let Ok(source) = Qcow2Source::from_reader(Path::new("disk.qcow2"), image, &options) else {
        return;
    };
    let end = source.size().min(READ_MAX);
    let Ok(extents) = source.extents(0..end) else {
        return;
    };
    let mut at = 0;
    for extent in &extents {
        assert_eq!(extent.offset, at, "extents tile the disk");
        assert!(extent.len > 0);
        at += extent.len;
        let mut buf = vec![0; usize::try_from(extent.len).expect("bounded above")];
        // Failing is an answer too.
        drop(source.read_at(extent.offset, &mut buf));
    }
    assert_eq!(at, end);
});
