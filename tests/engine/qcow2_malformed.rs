//! Malformed qcow2 images give an error that names the fault, at once and in little memory.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use cairn_engine::source::qcow2::{Qcow2Options, Qcow2Source};
use cairn_engine::source::{Source, SourceError};

use crate::qemu::{Folder, MIB, create, io, run, text};
use crate::support::waiting::PATIENCE;

/// Opens, lists and reads all of an image in memory, or fails.
pub fn read_all(image: Vec<u8>, options: &Qcow2Options) -> Result<(), SourceError> {
    const READ_MAX: u64 = 64 * MIB;
    let source = Qcow2Source::from_reader(Path::new("disk.qcow2"), Arc::new(image), options)?;
    let size = source.size();
    let mut place = 0;
    while place < size.min(1 << 42) {
        let end = size.min(place + (1 << 36));
        source.extents(place..end)?;
        place = end;
    }
    let mut buf = vec![0; MIB as usize];
    for place in (0..size.min(READ_MAX)).step_by(buf.len()) {
        let len = (size - place).min(MIB) as usize;
        source.read_at(place, &mut buf[..len])?;
    }
    Ok(())
}

/// An image with an internal snapshot, a compressed, a zero and a plain cluster.
fn image(options: &str) -> Vec<u8> {
    let folder = Folder::new();
    let path = folder.path("disk.qcow2");
    create(&path, options, 8 * MIB);
    let mut commands = vec!["write -P 1 0 1M", "write -z 1M 64k", "write -P 2 4M 64k"];
    if !options.contains("0.10") {
        commands.insert(0, "write -c -P 3 2M 64k");
    } else {
        commands.remove(1);
    }
    let commands: Vec<String> = commands.into_iter().map(str::to_owned).collect();
    io(&path, "qcow2", &commands);
    run("qemu-img", &["snapshot", "-c", "kept", text(&path)]);
    std::fs::read(&path).expect("the image can be read")
}

fn be(bytes: &[u8], at: u64) -> u64 {
    let at = at as usize;
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The first L2 table's place in the file.
fn l2(bytes: &[u8]) -> u64 {
    be(bytes, be(bytes, 40)) & 0x00ff_ffff_ffff_fe00
}

/// One way to break an image.
struct Case {
    what: &'static str,
    at: u64,
    new: Vec<u8>,
    options: Qcow2Options,
    /// A word of the message.
    reason: &'static str,
}

fn case(what: &'static str, at: u64, new: &[u8], reason: &'static str) -> Case {
    Case {
        what,
        at,
        new: new.to_vec(),
        options: Qcow2Options::default(),
        reason,
    }
}

fn kept(mut case: Case) -> Case {
    case.options.snapshot = Some("kept".to_owned());
    case
}

fn u64s(value: u64) -> [u8; 8] {
    value.to_be_bytes()
}

fn u32s(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

fn header_cases(len: u64, l1: u64) -> Vec<Case> {
    let past = (len + 65_535) & !65_535;
    vec![
        case("magic", 0, b"QFI\xfa", "does not begin"),
        case("version 1", 4, &u32s(1), "version 1"),
        case("version 4", 4, &u32s(4), "version 4"),
        case("cluster_bits 0", 20, &u32s(0), "cluster_bits is 0"),
        case("cluster_bits 8", 20, &u32s(8), "cluster_bits is 8"),
        case("cluster_bits 22", 20, &u32s(22), "cluster_bits is 22"),
        case("cluster_bits 63", 20, &u32s(63), "cluster_bits is 63"),
        case(
            "cluster_bits max",
            20,
            &u32s(u32::MAX),
            "cluster_bits is 4294967295",
        ),
        case("other clusters", 20, &u32s(21), "within a cluster"),
        case("size", 24, &u64s(u64::MAX), "a disk of"),
        case("size of 1 PiB", 24, &u64s(1 << 50), "too small"),
        case("encryption method", 32, &u32s(7), "encryption method 7"),
        case("huge L1", 36, &u32s(u32::MAX), "more than 33554432"),
        case("largest L1", 36, &u32s(4 << 20), "outside the file"),
        case("no L1", 36, &u32s(0), "too small"),
        case("L1 outside", 40, &u64s(past), "outside the file"),
        case("L1 far outside", 40, &u64s(!65_535), "outside the file"),
        case("L1 unaligned", 40, &u64s(l1 + 512), "within a cluster"),
        case(
            "backing name outside",
            8,
            &[&u64s(1 << 40)[..], &u32s(8)].concat(),
            "backing file",
        ),
        case(
            "backing name long",
            8,
            &[&u64s(600)[..], &u32s(1024)].concat(),
            "backing file",
        ),
    ]
}

fn feature_cases(len: u64) -> Vec<Case> {
    let past = (len + 65_535) & !65_535;
    vec![
        case("corrupt", 79, &[2], "corrupt"),
        case("unknown feature", 72, &[0x80], "bit 63"),
        case("compression bit alone", 79, &[8], "disagree"),
        case("compression type alone", 104, &[1], "disagree"),
        case("compression type 9", 104, &[9], "compression type 9"),
        case("header length 0", 100, &u32s(0), "header is said to have 0"),
        case(
            "header length max",
            100,
            &u32s(u32::MAX),
            "header is said to have",
        ),
        case("no data file", 79, &[4], "data file"),
        case("extension length", 116, &u32s(u32::MAX), "extension"),
        kept(case("many snapshots", 60, &u32s(u32::MAX), "snapshots")),
        kept(case(
            "snapshots outside",
            64,
            &u64s(past),
            "outside the file",
        )),
        kept(case(
            "snapshots far",
            64,
            &u64s(!65_535),
            "outside the file",
        )),
        kept(case(
            "snapshots unaligned",
            64,
            &u64s(513),
            "within a cluster",
        )),
    ]
}

fn table_cases(bytes: &[u8]) -> Vec<Case> {
    let (l1, l2) = (be(bytes, 40), l2(bytes));
    let past = (bytes.len() as u64 + 65_535) & !65_535;
    let compressed = l2 + 32 * 8;
    assert_eq!(
        be(bytes, compressed) >> 62,
        1,
        "the cluster at 2 MiB is compressed"
    );
    let place = be(bytes, compressed) & ((1 << 54) - 1);
    vec![
        case("L2 outside", l1, &u64s(past), "outside the file"),
        case(
            "L2 far outside",
            l1,
            &u64s(0x00ff_ffff_ffff_0000),
            "outside the file",
        ),
        case("L2 unaligned", l1, &u64s(l2 + 512), "within a cluster"),
        case("cluster outside", l2, &u64s(past), "(disk offset 0)"),
        case(
            "cluster far",
            l2 + 8,
            &u64s(0x00ff_ffff_ffff_0000),
            "(disk offset 65536)",
        ),
        case(
            "cluster unaligned",
            l2 + 16,
            &u64s(past + 512),
            "(disk offset 131072)",
        ),
        case(
            "compressed far",
            compressed,
            &u64s((1 << 62) | ((1 << 54) - 1)),
            "outside the file",
        ),
        case("compressed bytes", place, &[0xff; 32], "cannot be decoded"),
    ]
}

fn snapshot_cases(bytes: &[u8]) -> Vec<Case> {
    let snapshots = be(bytes, 64);
    let past = (bytes.len() as u64 + 65_535) & !65_535;
    vec![
        kept(case(
            "snapshot L1 outside",
            snapshots,
            &u64s(past),
            "outside the file",
        )),
        kept(case(
            "snapshot L1 unaligned",
            snapshots,
            &u64s(513),
            "within a cluster",
        )),
        kept(case(
            "snapshot L1 huge",
            snapshots + 8,
            &u32s(u32::MAX),
            "more than",
        )),
        kept(case(
            "snapshot extra",
            snapshots + 36,
            &u32s(u32::MAX),
            "extra data",
        )),
        kept(case(
            "snapshot size",
            snapshots + 48,
            &u64s(u64::MAX),
            "a disk of",
        )),
    ]
}

fn check(mut bytes: Vec<u8>, case: &Case) {
    let at = case.at as usize;
    bytes[at..at + case.new.len()].copy_from_slice(&case.new);
    let begun = Instant::now();
    let error = read_all(bytes, &case.options).expect_err(case.what);
    assert!(begun.elapsed() < PATIENCE, "{}", case.what);
    assert!(
        error.to_string().contains(case.reason),
        "{}: {error}",
        case.what
    );
}

#[test]
fn every_malformed_image_is_refused() {
    let bytes = image("cluster_size=64k");
    read_all(bytes.clone(), &Qcow2Options::default()).expect("the image is sound");
    let len = bytes.len() as u64;
    let cases = header_cases(len, be(&bytes, 40)).into_iter();
    let cases = cases
        .chain(feature_cases(len))
        .chain(table_cases(&bytes))
        .chain(snapshot_cases(&bytes));
    for case in cases {
        check(bytes.clone(), &case);
    }
    let old = image("compat=0.10");
    check(
        old.clone(),
        &case(
            "a zero cluster in version 2",
            l2(&old) + 7,
            &[1],
            "version 2",
        ),
    );
    let extended = image("extended_l2=on");
    let both = case(
        "both",
        l2(&extended) + 8,
        &[0xff; 8],
        "both zero and allocated",
    );
    check(extended, &both);
    print_peak();
}

#[test]
fn truncated_images_are_refused_wherever_they_end() {
    let bytes = image("cluster_size=64k");
    let end = bytes.len();
    let lens = (0..200)
        .chain((0..end).step_by(4099))
        .chain(end - 600..end - 512);
    for len in lens {
        let begun = Instant::now();
        let read = read_all(bytes[..len].to_vec(), &Qcow2Options::default());
        assert!(begun.elapsed() < PATIENCE, "{len} bytes");
        // QEMU writes tables as they grow: a sound end may be missing, but no whole cluster.
        if len + 2 * 65_536 < end {
            assert!(read.is_err(), "{len} of {end} bytes");
        }
    }
    print_peak();
}

#[test]
fn unknown_features_are_named_and_made_printable() {
    let mut bytes = image("cluster_size=64k");
    bytes[72] = 0x40;
    let table = (bytes
        .windows(4)
        .position(|word| word == [0x68, 0x03, 0xf8, 0x57]))
    .expect("qemu-img writes a table of feature names");
    bytes[table + 8..table + 10].copy_from_slice(&[0, 62]);
    bytes[table + 10..table + 20].copy_from_slice(b"warp\x1b[2Jx\0");
    let error = read_all(bytes, &Qcow2Options::default()).expect_err("the feature is unknown");
    assert!(matches!(error, SourceError::Unsupported { .. }));
    let message = error.to_string();
    assert!(message.contains("bit 62 (`warp\u{fffd}[2Jx`)"), "{message}");
}

/// Prints the most memory that this process has held, in KiB.
fn print_peak() {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
    println!("{}", peak.expect("the kernel counts memory"));
}

#[test]
fn malformed_images_take_less_than_256_mib() {
    let test = std::env::current_exe().expect("the test knows its file");
    // A process of its own, because all tests of this one share its memory.
    let output = Command::new(test)
        .args(["--test-threads=1", "--nocapture", "--exact"])
        .args(["qcow2_malformed::every_malformed_image_is_refused"])
        .args(["qcow2_malformed::truncated_images_are_refused_wherever_they_end"])
        .output()
        .expect("the test runs itself");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && shown.contains("2 passed"),
        "{shown}"
    );
    let peaks = shown
        .split_whitespace()
        .skip_while(|word| !word.ends_with("VmHWM:"))
        .skip(1);
    let peak: u64 = peaks
        .map_while(|word| word.parse().ok())
        .max()
        .expect("it was printed");
    assert!(peak < 256 * 1024, "{peak} KiB");
}
