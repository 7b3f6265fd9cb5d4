//! Backing chains and deltas: what images name is followed only with leave.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use cairn_engine::extent::ExtentStatus;
use cairn_engine::source::qcow2::{Qcow2Options, Qcow2Source};
use cairn_engine::source::{Format, Source, SourceError};

use crate::qemu::{
    Folder, MIB, check_source, converted, create, io, mixed_bytes, random_commands, run, seeded,
    text,
};

fn with_backing() -> Qcow2Options {
    Qcow2Options {
        allow_backing: true,
        ..Qcow2Options::default()
    }
}

fn open(path: &Path) -> Qcow2Source {
    Qcow2Source::open(path, &with_backing()).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(path: &Path, options: &Qcow2Options) -> SourceError {
    (Qcow2Source::open(path, options).err()).expect("the image is refused")
}

fn overlay(path: &Path, backing: &str, format: &str, options: &str, size: u64) {
    let options = format!("backing_file={backing},backing_fmt={format}{options}");
    create(path, &options, size);
}

/// Writes a backing string and format into an image without looking at either.
fn rebase_unchecked(path: &Path, backing: &str, format: &str) {
    run(
        "qemu-img",
        &[
            "rebase",
            "-u",
            "-f",
            "qcow2",
            "-b",
            backing,
            "-F",
            format,
            text(path),
        ],
    );
}

#[test]
fn mixed_chains_with_shorter_and_longer_backing() {
    let folder = Folder::new();
    let mut random = seeded(23);
    let raw = folder.path("base.raw");
    // An odd length: the rest of its last sector and all beyond read as zeros.
    fs::write(&raw, mixed_bytes(10 * MIB + 777, &mut random)).expect("the disk can be written");
    let layers = [
        ("a.qcow2", "base.raw", "raw", ",cluster_size=4096", 24),
        ("b.qcow2", "a.qcow2", "qcow2", ",compat=0.10", 32),
        ("c.qcow2", "b.qcow2", "qcow2", ",extended_l2=on", 20),
        ("d.qcow2", "c.qcow2", "qcow2", ",cluster_size=2M", 40),
    ];
    for (name, backing, format, options, size) in layers {
        let image = folder.path(name);
        overlay(&image, backing, format, options, size * MIB);
        io(
            &image,
            "qcow2",
            &random_commands(25, size * MIB, 4096, &mut random),
        );
        check_source(name, &open(&image), &converted(&image, "qcow2", &[]));
        let refused = refusal(&image, &Qcow2Options::default());
        assert!(
            matches!(&refused, SourceError::NotAllowed { role: "backing file", name, .. }
                if name == backing),
            "{refused:?}"
        );
    }
}

#[test]
fn compressed_clusters_over_a_backing_file() {
    let folder = Folder::new();
    let (raw, base, top) = (
        folder.path("x.raw"),
        folder.path("base.qcow2"),
        folder.path("t.qcow2"),
    );
    let bytes = mixed_bytes(12 * MIB, &mut seeded(29));
    fs::write(&raw, &bytes).expect("the disk can be written");
    run(
        "qemu-img",
        &["convert", "-c", "-O", "qcow2", text(&raw), text(&base)],
    );
    overlay(&top, "base.qcow2", "qcow2", ",extended_l2=on", 12 * MIB);
    io(
        &top,
        "qcow2",
        &random_commands(30, 12 * MIB, 2048, &mut seeded(31)),
    );
    check_source("top", &open(&top), &converted(&top, "qcow2", &[]));
}

#[test]
fn the_backing_format_is_never_guessed() {
    let folder = Folder::new();
    let (base, top) = (folder.path("base.img"), folder.path("top.qcow2"));
    fs::write(&base, vec![5; MIB as usize]).expect("the disk can be written");
    overlay(&top, "base.img", "raw", "", MIB);
    // An extension of an unknown kind in its place hides the format.
    let mut bytes = fs::read(&top).expect("the image can be read");
    let place = (bytes
        .windows(4)
        .position(|word| word == [0xe2, 0x79, 0x2a, 0xca]))
    .expect("qemu-img writes the format");
    bytes[place..place + 4].copy_from_slice(b"none");
    fs::write(&top, bytes).expect("the image can be written");
    let refused = refusal(&top, &with_backing());
    assert!(
        matches!(refused, SourceError::BackingFormatUnknown { .. }),
        "{refused:?}"
    );
    let options = Qcow2Options {
        backing_format: Some(Format::Raw),
        ..with_backing()
    };
    let source = Qcow2Source::open(&top, &options).unwrap_or_else(|error| panic!("{error}"));
    check_source("said", &source, &vec![5; MIB as usize]);
}

#[test]
fn only_plain_paths_are_followed() {
    let folder = Folder::new();
    let image = folder.path("top.qcow2");
    create(&image, "cluster_size=64k", MIB);
    for name in [
        "nbd://10.0.0.1/x",
        "json:{\"driver\":\"qcow2\"}",
        "nbd:unix:/run/x",
        "a:b",
    ] {
        rebase_unchecked(&image, name, "raw");
        let refused = refusal(&image, &with_backing());
        assert!(
            matches!(&refused, SourceError::Unsupported { feature, .. } if feature.contains(name)),
            "{refused:?}"
        );
    }
    rebase_unchecked(&image, "gone.raw", "raw");
    let refused = refusal(&image, &with_backing());
    assert!(matches!(&refused, SourceError::Io { op: "open", path, .. }
        if *path == folder.path("gone.raw")));
    rebase_unchecked(&image, "x.vmdk", "vmdk");
    assert!(
        refusal(&image, &with_backing())
            .to_string()
            .contains("`vmdk`")
    );
}

#[test]
fn loops_and_endless_chains_are_refused() {
    let folder = Folder::new();
    let (a, b) = (folder.path("a.qcow2"), folder.path("b.qcow2"));
    for image in [&a, &b] {
        create(image, "cluster_size=64k", MIB);
    }
    symlink(&a, folder.path("same.qcow2")).expect("a link can be made");
    rebase_unchecked(&a, "a.qcow2", "qcow2");
    assert!(matches!(
        refusal(&a, &with_backing()),
        SourceError::ChainLoop { .. }
    ));
    rebase_unchecked(&a, "b.qcow2", "qcow2");
    rebase_unchecked(&b, "same.qcow2", "qcow2");
    assert!(matches!(
        refusal(&a, &with_backing()),
        SourceError::ChainLoop { .. }
    ));

    let image = fs::read(&b).expect("the image can be read");
    for n in 0..205 {
        let mut image = image.clone();
        let place = (image.windows(10).position(|name| name == b"same.qcow2"))
            .expect("the name stands in the header");
        image[place..place + 10].copy_from_slice(format!("{:04}.qcow2", n + 1).as_bytes());
        fs::write(folder.path(&format!("{n:04}.qcow2")), image).expect("it can be written");
    }
    let refused = refusal(&folder.path("0000.qcow2"), &with_backing());
    assert!(
        matches!(refused, SourceError::ChainTooLong { limit: 200, .. }),
        "{refused:?}"
    );
    // One of the longest that are read.
    let last = folder.path("0205.qcow2");
    create(&last, "cluster_size=64k", MIB);
    let source = open(&folder.path("0006.qcow2"));
    let mut bytes = [1; 512];
    source
        .read_at(0, &mut bytes)
        .expect("all of them are whole");
    assert_eq!(bytes, [0; 512]);
}

#[test]
fn a_delta_has_what_was_written_and_ignores_its_backing_string() {
    for options in ["cluster_size=64k", "extended_l2=on,cluster_size=64k"] {
        let folder = Folder::new();
        let image = folder.path("delta.qcow2");
        create(&image, options, 16 * MIB);
        let commands = ["write -P 3 1M 128k", "write -z 2M 64k", "write -P 0 3M 64k"];
        io(&image, "qcow2", &commands.map(str::to_owned));
        let expected = converted(&image, "qcow2", &[]);
        rebase_unchecked(&image, "nbd+unix:///vda?socket=/run/gone", "raw");
        let options = Qcow2Options {
            delta: true,
            ..Qcow2Options::default()
        };
        let source = Qcow2Source::open(&image, &options).unwrap_or_else(|error| panic!("{error}"));
        assert!(!source.has_unchanged());
        check_source("delta", &source, &expected);
        let found: Vec<_> = (source
            .extents(0..16 * MIB)
            .expect("extents can be listed")
            .iter())
        .map(|extent| (extent.offset / 65_536, extent.len / 65_536, extent.status))
        .collect();
        use ExtentStatus::{Data, Unchanged, Zero};
        assert_eq!(
            found,
            [
                (0, 16, Unchanged),
                (16, 2, Data),
                (18, 14, Unchanged),
                (32, 1, Zero),
                (33, 15, Unchanged),
                (48, 1, Data),
                (49, 207, Unchanged),
            ]
        );
        let mut two = vec![0; 2 * 65_536];
        let error = source
            .read_at(17 * 65_536, &mut two)
            .expect_err("half of it is not here");
        assert!(matches!(error, SourceError::NotHere { offset } if offset == 18 * 65_536));
    }
}
