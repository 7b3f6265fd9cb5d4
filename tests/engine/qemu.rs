//! QEMU's own tools as the oracle, and what every source must do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cairn_engine::extent::{Extent, ExtentStatus};
use cairn_engine::source::Source;

/// One mebibyte.
pub const MIB: u64 = 1024 * 1024;

/// A folder of images that goes when the test ends.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Runs a tool of the package qemu-utils, which must succeed.
pub fn run(tool: &str, args: &[&str]) -> Output {
    let output = try_run(tool, args);
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a tool of the package qemu-utils.
pub fn try_run(tool: &str, args: &[&str]) -> Output {
    Command::new(tool)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {tool} (package qemu-utils): {error}"))
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Makes an empty image; `options` is qemu-img's text after `-o`.
pub fn create(path: &Path, options: &str, size: u64) {
    let size = size.to_string();
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            options,
            text(path),
            &size,
        ],
    );
}

/// Runs qemu-io commands on an image.
pub fn io(path: &Path, format: &str, commands: &[String]) {
    // Nobody needs these disks after a power cut.
    let mut args = vec!["-t", "unsafe", "-f", format];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(text(path));
    let output = run("qemu-io", &args);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!shown.contains("failed"), "{commands:?}: {shown}");
}

/// Returns the disk's bytes as qemu-img converts them; `more` are options such as `-l`.
pub fn converted(path: &Path, format: &str, more: &[&str]) -> Vec<u8> {
    let raw = path.with_extension("oracle");
    let mut args = vec!["convert", "-f", format, "-O", "raw"];
    args.extend(more);
    args.extend([text(path), text(&raw)]);
    run("qemu-img", &args);
    let bytes = fs::read(&raw).expect("qemu-img made the file");
    fs::remove_file(&raw).expect("the file can go");
    bytes
}

/// A mix of what disks hold: text-like, random, constant and zero runs of all lengths.
pub fn mixed_bytes(len: u64, random: &mut fastrand::Rng) -> Vec<u8> {
    let len = usize::try_from(len).expect("test disks fit in memory");
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let run = random.usize(1..400_000);
        match random.u8(0..4) {
            0 => bytes.extend(std::iter::repeat_n(random.u8(..), run)),
            1 => bytes.extend(std::iter::repeat_n(0, run)),
            2 => bytes.extend((0..run / 2).map(|_| random.u8(..))),
            _ => bytes.extend((0..run).map(|_| random.u8(b'a'..b'f'))),
        }
    }
    bytes.truncate(len);
    bytes
}

/// Returns qemu-io commands that write, zero and discard here and there. `unit` is the length that
/// most of them are rounded to.
pub fn random_commands(
    count: u32,
    size: u64,
    unit: u64,
    random: &mut fastrand::Rng,
) -> Vec<String> {
    (0..count)
        .map(|n| {
            let round = if n % 3 == 0 { 512 } else { unit };
            let offset = random.u64(0..size) / round * round;
            let len = (random.u64(1..=24) * round).min(size - offset);
            match random.u8(0..8) {
                0 => format!("write -z {offset} {len}"),
                1 => format!("write -z -u {offset} {len}"),
                2 => format!("discard {offset} {len}"),
                pattern => format!("write -P {pattern} {offset} {len}"),
            }
        })
        .collect()
}

/// Returns a generator that is the same in every run; `CAIRN_SEED` makes other ones of all.
pub fn seeded(seed: u64) -> fastrand::Rng {
    #[expect(
        clippy::disallowed_methods,
        reason = "other seeds without another build"
    )]
    let base = std::env::var("CAIRN_SEED").ok();
    let base: u64 = base.and_then(|seed| seed.parse().ok()).unwrap_or(0);
    fastrand::Rng::with_seed(seed.wrapping_add(base.wrapping_mul(0x9e37_79b9)))
}

/// Checks everything that a source says of its disk against the disk's bytes. Unchanged ranges are
/// read where the source says that it has them.
pub fn check_source(what: &str, source: &dyn Source, expected: &[u8]) {
    let size = source.size();
    assert_eq!(size, expected.len() as u64, "{what}: size");
    let mut random = seeded(size);
    let extents = source.extents(0..size).expect("extents can be listed");
    check_tiling(what, &extents, 0, size);
    for extent in &extents {
        let range = extent.offset as usize..extent.range().end as usize;
        match extent.status {
            ExtentStatus::Zero => {
                assert!(
                    expected[range].iter().all(|&b| b == 0),
                    "{what}: {extent:?} is not zero"
                );
            }
            ExtentStatus::Unchanged if !source.has_unchanged() => {
                let read = source.read_at(extent.offset, &mut [0]);
                assert!(read.is_err(), "{what}: {extent:?} can be read");
            }
            _ => check_read(what, source, expected, extent.offset, extent.len),
        }
    }
    let readable = extents
        .iter()
        .all(|extent| extent.status != ExtentStatus::Unchanged || source.has_unchanged());
    if readable {
        check_read(what, source, expected, 0, size);
    }
    for _ in 0..64 {
        let offset = random.u64(0..=size);
        let len = random.u64(0..=(size - offset).min(3 * MIB));
        if readable {
            check_read(what, source, expected, offset, len);
        }
        let part = source
            .extents(offset..offset + len)
            .expect("extents can be listed");
        check_tiling(what, &part, offset, offset + len);
        for extent in part {
            let whole = extents.iter().filter(|other| {
                other.offset < extent.range().end && other.range().end > extent.offset
            });
            let is_unchanged = |extent: &Extent| extent.status == ExtentStatus::Unchanged;
            for other in whole {
                assert_eq!(
                    is_unchanged(&extent),
                    is_unchanged(other),
                    "{what}: {extent:?}"
                );
            }
            // Preallocated clusters turn from holes to data as they are read: the kernel tells
            // what it has in memory. Either is right, as long as holes are zeros.
            if extent.status == ExtentStatus::Zero {
                let bytes = &expected[extent.offset as usize..extent.range().end as usize];
                assert!(
                    bytes.iter().all(|&byte| byte == 0),
                    "{what}: {extent:?} is not zero"
                );
            }
        }
    }
}

fn check_tiling(what: &str, extents: &[Extent], start: u64, end: u64) {
    let mut place = start;
    for extent in extents {
        assert_eq!(extent.offset, place, "{what}: gap or overlap");
        assert!(extent.len > 0, "{what}: empty extent");
        place = extent.range().end;
    }
    assert_eq!(place, end, "{what}: the extents do not cover the range");
}

fn check_read(what: &str, source: &dyn Source, expected: &[u8], offset: u64, len: u64) {
    let mut bytes = vec![0xa5; len as usize];
    source
        .read_at(offset, &mut bytes)
        .unwrap_or_else(|error| panic!("{what}: {len} bytes at {offset}: {error}"));
    let expected = &expected[offset as usize..(offset + len) as usize];
    if let Some(n) = bytes.iter().zip(expected).position(|(a, b)| a != b) {
        panic!(
            "{what}: the byte at {} differs (read of {len} at {offset})",
            offset + n as u64
        );
    }
}

/// Returns the bytes that the extents call data.
pub fn data_len(extents: &[Extent]) -> u64 {
    let data = extents
        .iter()
        .filter(|extent| extent.status == ExtentStatus::Data);
    data.map(|extent| extent.len).sum()
}
