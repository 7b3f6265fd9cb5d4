//! Every kind of single qcow2 image reads as qemu-img reads it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use cairn_engine::source::qcow2::{Qcow2Options, Qcow2Source};
use cairn_engine::source::{Source, SourceError};

use crate::qemu::{
    Folder, MIB, check_source, converted, create, data_len, io, mixed_bytes, random_commands, run,
    seeded, text,
};
use crate::support::waiting::PATIENCE;

fn open(path: &Path) -> Qcow2Source {
    let options = Qcow2Options {
        allow_data_file: true,
        ..Qcow2Options::default()
    };
    Qcow2Source::open(path, &options).unwrap_or_else(|error| panic!("{error}"))
}

/// Writes at random into a new image and compares.
fn check_written(options: &str, size: u64, unit: u64) {
    let folder = Folder::new();
    let image = folder.path("disk.qcow2");
    create(&image, options, size);
    io(
        &image,
        "qcow2",
        &random_commands(60, size, unit, &mut seeded(size ^ unit)),
    );
    check_source(options, &open(&image), &converted(&image, "qcow2", &[]));
}

#[test]
fn clusters_of_every_size_in_both_versions() {
    for compat in ["0.10", "1.1"] {
        for (cluster, size) in [(512, 4), (4096, 16), (65_536, 64), (2_097_152, 128)] {
            let options = format!("compat={compat},cluster_size={cluster}");
            check_written(&options, size * MIB - 512, cluster.min(65_536));
        }
    }
}

#[test]
fn subclusters() {
    for (cluster, size) in [(16_384, 16), (65_536, 64), (2_097_152, 128)] {
        let options = format!("extended_l2=on,cluster_size={cluster}");
        check_written(&options, size * MIB - 512, cluster / 32);
    }
}

#[test]
fn preallocated_images() {
    for mode in ["metadata", "falloc", "full"] {
        check_written(&format!("preallocation={mode}"), 24 * MIB, 65_536);
        check_written(
            &format!("preallocation={mode},extended_l2=on"),
            24 * MIB,
            2048,
        );
    }
}

#[test]
fn a_preallocated_image_is_data_only_where_the_file_has_bytes() {
    let folder = Folder::new();
    let image = folder.path("disk.qcow2");
    create(&image, "preallocation=metadata", 64 * MIB);
    io(&image, "qcow2", &["write -P 7 16M 1M".to_owned()]);
    let extents = open(&image)
        .extents(0..64 * MIB)
        .expect("extents can be listed");
    assert!(data_len(&extents) <= 2 * MIB, "{extents:?}");
}

#[test]
fn external_data_files() {
    for raw in ["off", "on"] {
        let folder = Folder::new();
        let image = folder.path("disk.qcow2");
        // The name in the image is as given; the reader must find it beside the image.
        let data_file = folder.path("disk.data");
        let options = format!("data_file={},data_file_raw={raw}", text(&data_file));
        create(&image, &options, 32 * MIB);
        let mut commands = random_commands(40, 32 * MIB, 65_536, &mut seeded(3));
        commands.push("write -P 9 0 64k".to_owned());
        io(&image, "qcow2", &commands);
        let expected = converted(&image, "qcow2", &[]);
        check_source(raw, &open(&image), &expected);
        let refused = Qcow2Source::open(&image, &Qcow2Options::default());
        assert!(matches!(
            refused.err().expect("a data file needs leave"),
            SourceError::NotAllowed {
                role: "data file",
                ..
            }
        ));
    }
}

#[test]
fn compressed_clusters() {
    let mut random = seeded(11);
    for kind in ["zlib", "zstd"] {
        for (cluster, extended) in [
            (512, "off"),
            (4096, "off"),
            (65_536, "off"),
            (2_097_152, "off"),
            (65_536, "on"),
        ] {
            let folder = Folder::new();
            let (raw, image) = (folder.path("disk.raw"), folder.path("disk.qcow2"));
            let size = if cluster == 512 { 2 * MIB } else { 20 * MIB } - 512;
            fs::write(&raw, mixed_bytes(size, &mut random)).expect("the disk can be written");
            let options =
                format!("compression_type={kind},cluster_size={cluster},extended_l2={extended}");
            let (from, to) = (text(&raw), text(&image));
            run(
                "qemu-img",
                &[
                    "convert", "-q", "-c", "-O", "qcow2", "-o", &options, from, to,
                ],
            );
            check_source(&options, &open(&image), &converted(&image, "qcow2", &[]));
            // Some clusters are then written over, in part and whole.
            io(
                &image,
                "qcow2",
                &random_commands(20, size, cluster.min(65_536), &mut random),
            );
            check_source(&options, &open(&image), &converted(&image, "qcow2", &[]));
        }
    }
}

#[test]
fn compressed_clusters_in_disorder_and_read_by_many_threads() {
    let folder = Folder::new();
    let (raw, image) = (folder.path("disk.raw"), folder.path("disk.qcow2"));
    fs::write(&raw, mixed_bytes(32 * MIB, &mut seeded(5))).expect("the disk can be written");
    let (from, to) = (text(&raw), text(&image));
    run(
        "qemu-img",
        &[
            "convert", "-q", "-c", "-W", "-m", "16", "-O", "qcow2", from, to,
        ],
    );
    let expected = converted(&image, "qcow2", &[]);
    let source = open(&image);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| check_source("disorder", &source, &expected));
        }
    });
}

#[test]
fn internal_snapshots_by_name_and_by_id() {
    let folder = Folder::new();
    let image = folder.path("disk.qcow2");
    create(&image, "cluster_size=4096", 16 * MIB);
    let mut random = seeded(17);
    for name in ["first", "second"] {
        io(
            &image,
            "qcow2",
            &random_commands(40, 16 * MIB, 4096, &mut random),
        );
        run("qemu-img", &["snapshot", "-c", name, text(&image)]);
    }
    io(
        &image,
        "qcow2",
        &random_commands(40, 16 * MIB, 4096, &mut random),
    );
    let state = |name: &str| {
        Qcow2Source::open(
            &image,
            &Qcow2Options {
                snapshot: Some(name.to_owned()),
                ..Qcow2Options::default()
            },
        )
    };
    check_source("active", &open(&image), &converted(&image, "qcow2", &[]));
    for (name, id) in [("first", "1"), ("second", "2")] {
        let expected = converted(&image, "qcow2", &["-l", name]);
        for wanted in [name, id] {
            let source = state(wanted).unwrap_or_else(|error| panic!("{error}"));
            check_source(wanted, &source, &expected);
        }
    }
    let missing = state("third").err().expect("there is no such snapshot");
    assert!(matches!(missing, SourceError::NoInternalSnapshot { name, .. } if name == "third"));
}

#[test]
fn a_snapshot_has_the_size_that_the_disk_had() {
    let folder = Folder::new();
    let image = folder.path("disk.qcow2");
    create(&image, "cluster_size=64k", 4 * MIB);
    io(&image, "qcow2", &["write -P 3 1M 1M".to_owned()]);
    let before = converted(&image, "qcow2", &[]);
    run("qemu-img", &["snapshot", "-c", "small", text(&image)]);
    run("qemu-img", &["resize", "-q", text(&image), "2G"]);
    io(&image, "qcow2", &["write -P 4 1M 4M".to_owned()]);
    let options = Qcow2Options {
        snapshot: Some("small".to_owned()),
        ..Qcow2Options::default()
    };
    let source = Qcow2Source::open(&image, &options).unwrap_or_else(|error| panic!("{error}"));
    check_source("small", &source, &before);
}

#[test]
fn encrypted_images_are_refused_with_the_way_to_read_them() {
    let folder = Folder::new();
    let image = folder.path("disk.qcow2");
    let (options, secret) = (
        "encrypt.format=aes,encrypt.key-secret=key",
        "secret,id=key,data=pw",
    );
    let path = text(&image);
    let args = [
        "create", "-q", "--object", secret, "-f", "qcow2", "-o", options, path, "1M",
    ];
    run("qemu-img", &args);
    let mut bytes = fs::read(&image).expect("the image can be read");
    // Making a LUKS image takes seconds of key derivation; the header differs by its method.
    for (method, name) in [(1, "AES"), (2, "LUKS")] {
        bytes[35] = method;
        fs::write(&image, &bytes).expect("the image can be written");
        let error = (Qcow2Source::open(&image, &Qcow2Options::default()).err())
            .expect("no ciphertext is handed out");
        assert!(matches!(error, SourceError::Encrypted { method, .. } if method == name));
        let message = error.to_string();
        assert!(message.contains("qemu-utils") && message.contains("qemu-nbd --read-only"));
    }
}

#[test]
fn a_terabyte_of_nothing_takes_no_time() {
    let folder = Folder::new();
    let size = 1024 * 1024 * MIB;
    for options in [
        "cluster_size=64k",
        "cluster_size=64k,extended_l2=on",
        "cluster_size=8k",
    ] {
        let image = folder.path("disk.qcow2");
        create(&image, options, size);
        io(&image, "qcow2", &["write -P 1 700G 64k".to_owned()]);
        let begun = Instant::now();
        let source = open(&image);
        let extents = source.extents(0..size).expect("extents can be listed");
        assert_eq!(extents.len(), 3, "{options}: {extents:?}");
        assert!(begun.elapsed() < PATIENCE, "{options}");
    }
}
