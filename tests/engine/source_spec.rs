//! A source's format is what the user or the extension says, never what the content looks like.

use std::ffi::OsStr;
use std::fs;

use cairn_engine::source::{SourceError, SourceSpec, SpecError, open};

use crate::qemu::{Folder, MIB, create, text};

fn open_text(text: &str) -> Result<u64, SourceError> {
    let spec = SourceSpec::parse(OsStr::new(text)).expect("the text is right");
    open(&spec).map(|source| source.size())
}

#[test]
fn the_format_is_said_and_not_guessed() {
    let folder = Folder::new();
    let image = folder.path("disk.qcow2");
    create(&image, "cluster_size=64k", 8 * MIB);
    let bytes = fs::read(&image).expect("the image can be read");
    let len = bytes.len() as u64;
    // A guest wrote a qcow2 header into its raw disk.
    for name in ["disk.raw", "disk.img", "disk.IMG", "disk", "disk.vmdk"] {
        fs::write(folder.path(name), &bytes).expect("the disk can be written");
    }
    let path = |name: &str| text(&folder.path(name)).to_owned();
    assert!(matches!(open_text(&path("disk.qcow2")), Ok(size) if size == 8 * MIB));
    for name in ["disk.raw", "disk.img", "disk.IMG"] {
        assert!(matches!(open_text(&path(name)), Ok(size) if size == len));
    }
    for name in ["disk", "disk.vmdk"] {
        let error = open_text(&path(name)).expect_err("the format is not known");
        assert!(matches!(&error, SourceError::FormatUnknown { .. }));
        assert!(error.to_string().contains("format="));
        let said = open_text(&(path(name) + ",format=qcow2"));
        assert!(matches!(said, Ok(size) if size == 8 * MIB));
    }
    let error = open_text(&path("gone")).expect_err("there is no such file");
    assert!(matches!(error, SourceError::Io { op: "open", .. }));
}

#[test]
fn qcow2_options_need_qcow2() {
    let folder = Folder::new();
    let raw = folder.path("disk.raw");
    fs::write(&raw, [0; 512]).expect("the disk can be written");
    let error = open_text(&format!("{},bitmap=b", text(&raw))).expect_err("raw has no bitmaps");
    let needs = SpecError::NeedsQcow2 { option: "bitmap" };
    assert!(matches!(error, SourceError::Spec { source, .. } if source == needs));
}
