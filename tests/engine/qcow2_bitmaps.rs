//! Persistent dirty bitmaps: exactly what was written is dirty, and doubtful bitmaps are refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cairn_engine::extent::ExtentStatus;
use cairn_engine::source::qcow2::{Qcow2Options, Qcow2Source};
use cairn_engine::source::{Source, SourceError};

use crate::qemu::{
    Folder, MIB, check_source, converted, create, io, random_commands, run, seeded, text, try_run,
};

fn open(path: &Path, bitmap: &str) -> Result<Qcow2Source, SourceError> {
    let options = Qcow2Options {
        allow_backing: true,
        bitmap: Some(bitmap.to_owned()),
        ..Qcow2Options::default()
    };
    Qcow2Source::open(path, &options)
}

fn opened(path: &Path, bitmap: &str) -> Qcow2Source {
    open(path, bitmap).unwrap_or_else(|error| panic!("{error}"))
}

fn fault(path: &Path, bitmap: &str) -> &'static str {
    match open(path, bitmap).err() {
        Some(SourceError::Bitmap { fault, .. }) => fault,
        other => panic!("not a refusal of the bitmap: {other:?}"),
    }
}

fn add(path: &Path, bitmap: &str, granularity: u64) {
    let granularity = granularity.to_string();
    run(
        "qemu-img",
        &["bitmap", "--add", "-g", &granularity, text(path), bitmap],
    );
}

/// Returns the granules that qemu-io commands touch.
fn granules(commands: &[String], granularity: u64) -> BTreeSet<u64> {
    let ranges = commands.iter().map(|command| {
        let mut words = command.split(' ').rev().map(|word| word.parse::<u64>());
        let len = words.next().expect("a length").expect("a number");
        let offset = words.next().expect("an offset").expect("a number");
        offset / granularity..(offset + len).div_ceil(granularity)
    });
    ranges.flatten().collect()
}

fn dirty_granules(source: &Qcow2Source, granularity: u64) -> BTreeSet<u64> {
    let extents = source
        .extents(0..source.size())
        .expect("extents can be listed");
    let dirty = extents
        .iter()
        .filter(|extent| extent.status != ExtentStatus::Unchanged);
    dirty
        .flat_map(|extent| {
            assert_eq!(extent.offset % granularity.min(512), 0);
            extent.offset / granularity..extent.range().end.div_ceil(granularity)
        })
        .collect()
}

#[test]
fn what_was_written_is_dirty_and_nothing_else() {
    for (cluster, granularity, size) in [
        (65_536, 65_536, 64 * MIB),
        (65_536, 512, 64 * MIB),
        (4096, 4096, 64 * MIB - 512),
        (512, 512, 8 * MIB + 512),
        (2 * MIB, 1024 * 1024, 64 * MIB),
    ] {
        let folder = Folder::new();
        let (base, image) = (folder.path("base.qcow2"), folder.path("disk.qcow2"));
        create(&base, "cluster_size=64k", size);
        io(
            &base,
            "qcow2",
            &random_commands(20, size, 65_536, &mut seeded(41)),
        );
        let options = format!("cluster_size={cluster},backing_file=base.qcow2,backing_fmt=qcow2");
        create(&image, &options, size);
        io(
            &image,
            "qcow2",
            &random_commands(20, size, 65_536, &mut seeded(43)),
        );
        add(&image, "since", granularity);
        add(&image, "other", 65_536);
        let commands = random_commands(25, size, 4096, &mut seeded(47));
        io(&image, "qcow2", &commands);
        let source = opened(&image, "since");
        assert!(source.has_unchanged());
        let what = format!("cluster {cluster}, granularity {granularity}");
        check_source(&what, &source, &converted(&image, "qcow2", &[]));
        assert_eq!(
            dirty_granules(&source, granularity),
            granules(&commands, granularity),
            "{what}"
        );
        assert_eq!(fault(&image, "sinc"), "is not there");
    }
}

#[test]
fn a_new_bitmap_is_clean_and_an_image_without_any_says_so() {
    let folder = Folder::new();
    let image = folder.path("disk.qcow2");
    create(&image, "cluster_size=64k", 8 * MIB);
    assert_eq!(fault(&image, "since"), "is not there");
    io(&image, "qcow2", &["write 0 8M".to_owned()]);
    add(&image, "since", 65_536);
    let extents = opened(&image, "since")
        .extents(0..8 * MIB)
        .expect("extents can be listed");
    assert_eq!(extents.len(), 1);
    assert_eq!(extents[0].status, ExtentStatus::Unchanged);
}

#[test]
fn a_bitmap_that_a_dying_process_left_is_refused() {
    let folder = Folder::new();
    let image = folder.path("disk.qcow2");
    create(&image, "cluster_size=64k", 8 * MIB);
    add(&image, "since", 65_536);
    let args = [
        "-f",
        "qcow2",
        "-c",
        "write 1M 64k",
        "-c",
        "abort",
        text(&image),
    ];
    assert!(!try_run("qemu-io", &args).status.success());
    assert!(fault(&image, "since").contains("inconsistent"));
    // The disk itself can still be read, by doing without the bitmap.
    let source = Qcow2Source::open(&image, &Qcow2Options::default())
        .unwrap_or_else(|error| panic!("{error}"));
    check_source("crashed", &source, &converted(&image, "qcow2", &["-U"]));
}

/// An image with one bitmap, as bytes, and where its parts are.
struct Parts {
    bytes: Vec<u8>,
    entry: usize,
    table: usize,
}

impl Parts {
    fn new(path: &Path) -> Self {
        let bytes = fs::read(path).expect("the image can be read");
        let extension = (bytes
            .windows(4)
            .position(|word| word == [0x23, 0x85, 0x28, 0x75]))
        .expect("the image has bitmaps");
        let entry = be(&bytes, extension + 24);
        let table = be(&bytes, entry);
        Parts {
            bytes,
            entry,
            table,
        }
    }

    /// Writes a copy with other bytes at `at`.
    fn with(&self, path: &Path, at: usize, new: &[u8]) {
        let mut bytes = self.bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        fs::write(path, bytes).expect("the image can be written");
    }
}

fn be(bytes: &[u8], at: usize) -> usize {
    let word: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
    usize::try_from(u64::from_be_bytes(word)).expect("a place in a small file")
}

#[test]
fn doubtful_bitmaps_are_refused_with_the_reason() {
    let folder = Folder::new();
    let (image, broken) = (folder.path("disk.qcow2"), folder.path("broken.qcow2"));
    create(&image, "cluster_size=64k", 8 * MIB);
    add(&image, "since", 65_536);
    io(&image, "qcow2", &["write 1M 64k".to_owned()]);
    let parts = Parts::new(&image);
    let (entry, table) = (parts.entry, parts.table);
    let past_end = ((parts.bytes.len() as u64).next_multiple_of(65_536)).to_be_bytes();
    let cases: [(&str, usize, &[u8], &str); 13] = [
        ("autoclear bit", 88, &[0; 8], "is not valid"),
        ("in use", entry + 12, &3_u32.to_be_bytes(), "inconsistent"),
        ("unknown flag", entry + 12, &10_u32.to_be_bytes(), "flags"),
        ("type", entry + 16, &[2], "type"),
        ("fine granularity", entry + 17, &[8], "granularity"),
        ("coarse granularity", entry + 17, &[32], "granularity"),
        ("63 bits", entry + 17, &[63], "granularity"),
        ("table length", entry + 8, &2_u32.to_be_bytes(), "length"),
        ("table outside", entry, &past_end, "outside"),
        (
            "table unaligned",
            entry,
            &513_u64.to_be_bytes(),
            "within a cluster",
        ),
        ("bits outside", table, &past_end, "rules"),
        ("bits unaligned", table, &512_u64.to_be_bytes(), "rules"),
        ("reserved bits", table, &2_u64.to_be_bytes(), "rules"),
    ];
    for (what, at, new, reason) in cases {
        parts.with(&broken, at, new);
        assert!(
            fault(&broken, "since").contains(reason),
            "{what}: {}",
            fault(&broken, "since")
        );
    }
    parts.with(&broken, entry + 20, &u32::MAX.to_be_bytes());
    let error = open(&broken, "since")
        .err()
        .expect("the directory is broken");
    assert!(matches!(error, SourceError::Malformed { .. }), "{error:?}");
}

#[test]
fn table_entries_without_bits_are_all_or_nothing() {
    let folder = Folder::new();
    let (image, other) = (folder.path("disk.qcow2"), folder.path("other.qcow2"));
    create(&image, "cluster_size=512", 4 * MIB);
    add(&image, "since", 512);
    let parts = Parts::new(&image);
    // Two clusters of 4096 bits of 512 bytes each: the first is set whole.
    parts.with(&other, parts.table, &1_u64.to_be_bytes());
    let extents = opened(&other, "since")
        .extents(0..4 * MIB)
        .expect("extents can be listed");
    let found: Vec<_> = extents
        .iter()
        .map(|extent| (extent.offset, extent.status))
        .collect();
    assert_eq!(
        found,
        [(0, ExtentStatus::Zero), (2 * MIB, ExtentStatus::Unchanged)]
    );
}

#[test]
fn a_disabled_bitmap_is_refused_since_it_missed_writes() {
    let folder = Folder::new();
    let image = folder.path("disk.qcow2");
    create(&image, "cluster_size=64k", MIB);
    add(&image, "b0", 65_536);
    run("qemu-img", &["bitmap", "--disable", text(&image), "b0"]);
    assert!(fault(&image, "b0").contains("disabled"));
    run("qemu-img", &["bitmap", "--enable", text(&image), "b0"]);
    assert_eq!(opened(&image, "b0").size(), MIB);
}
