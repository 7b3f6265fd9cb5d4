//! Reading qcow2 images from the page cache in reads of 1 MiB, by kind, against the same disk as a
//! raw file; and listing the extents of a fragmented disk. Data: 512 MiB of seeded letters that
//! compress to about half, through `qemu-img convert`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use cairn_engine::source::{Format, Source, SourceSpec, open};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

const DISK_LEN: u64 = 512 * 1024 * 1024;
const READ_LEN: u64 = 1024 * 1024;

/// Name, and options of `qemu-img convert`.
const KINDS: [(&str, &[&str]); 5] = [
    ("raw", &["-O", "raw"]),
    ("plain", &["-O", "qcow2"]),
    ("extended", &["-O", "qcow2", "-o", "extended_l2=on"]),
    ("zlib", &["-c", "-O", "qcow2"]),
    (
        "zstd",
        &["-c", "-O", "qcow2", "-o", "compression_type=zstd"],
    ),
];

fn main() {
    divan::main();
}

/// Returns the folder of images, made once; the system's own cleaning takes it away.
fn images() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join("cairn-bench-qcow2");
        fs::create_dir_all(&folder).expect("a folder can be made");
        let disk = folder.join("disk");
        let mut random = fastrand::Rng::with_seed(1);
        let letters: Vec<u8> = (0..DISK_LEN).map(|_| b'a' + random.u8(0..16)).collect();
        fs::write(&disk, letters).expect("the disk can be written");
        for (name, options) in KINDS {
            let status = Command::new("qemu-img")
                .args(["convert", "-f", "raw"])
                .args(options)
                .args([&disk, &folder.join(name)])
                .status();
            let status = status.expect("qemu-img runs (package qemu-utils)");
            assert!(status.success(), "qemu-img converts");
        }
        folder
    })
}

fn source(name: &str) -> Box<dyn Source> {
    let mut spec = SourceSpec::new(images().join(name));
    spec.format = Some(if name == "raw" {
        Format::Raw
    } else {
        Format::Qcow2
    });
    open(&spec).expect("the image can be opened")
}

#[divan::bench(args = ["raw", "plain", "extended", "zlib", "zstd"], sample_count = 5)]
fn read(bencher: Bencher, name: &str) {
    let source = source(name);
    let mut buf = vec![0; READ_LEN as usize];
    bencher.counter(BytesCount::new(DISK_LEN)).bench_local(|| {
        for place in (0..DISK_LEN).step_by(buf.len()) {
            source
                .read_at(place, &mut buf)
                .expect("the disk can be read");
            black_box(&buf);
        }
    });
}

/// Lists 512 MiB; every cluster is allocated.
#[divan::bench(args = ["plain", "extended", "zlib"])]
fn extents(bencher: Bencher, name: &str) {
    let source = source(name);
    bencher
        .counter(BytesCount::new(DISK_LEN))
        .bench_local(|| source.extents(0..DISK_LEN).expect("extents can be listed"));
}
