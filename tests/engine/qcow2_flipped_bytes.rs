//! Whatever byte of an image is changed: an error or other bytes, never a panic or a long wait.

use std::time::Instant;

use cairn_engine::source::qcow2::Qcow2Options;

use crate::qcow2_malformed::read_all;
use crate::qemu::{Folder, MIB, create, io, random_commands, run, seeded, text};
use crate::support::waiting::PATIENCE;

/// An image that has everything, in small clusters, so that most of it is metadata.
fn image(options: &str) -> Vec<u8> {
    let folder = Folder::new();
    let path = folder.path("disk.qcow2");
    create(&path, options, MIB);
    io(&path, "qcow2", &["write -c -P 5 512k 16k".to_owned()]);
    io(
        &path,
        "qcow2",
        &random_commands(12, MIB / 2, 4096, &mut seeded(53)),
    );
    run("qemu-img", &["snapshot", "-c", "kept", text(&path)]);
    run(
        "qemu-img",
        &["bitmap", "--add", "-g", "512", text(&path), "since"],
    );
    io(&path, "qcow2", &["write -P 9 256k 20k".to_owned()]);
    std::fs::read(&path).expect("the image can be read")
}

#[test]
fn no_changed_byte_makes_a_panic() {
    let options = [
        Qcow2Options::default(),
        Qcow2Options {
            snapshot: Some("kept".to_owned()),
            ..Qcow2Options::default()
        },
        Qcow2Options {
            bitmap: Some("since".to_owned()),
            ..Qcow2Options::default()
        },
    ];
    let kinds = [
        "cluster_size=512",
        "cluster_size=4k,compression_type=zstd",
        "cluster_size=16k,extended_l2=on",
    ];
    for kind in kinds {
        let bytes = image(kind);
        for options in &options {
            read_all(bytes.clone(), options).unwrap_or_else(|error| panic!("{kind}: {error}"));
        }
        // Bytes that say something: data clusters are constant.
        let places: Vec<usize> = (0..bytes.len())
            .filter(|&n| n < 600 || (bytes[n] != 0 && bytes[n] != bytes[n - 1]))
            .collect();
        let mut random = seeded(59);
        for n in 0..3000 {
            let mut bytes = bytes.clone();
            for _ in 0..random.u8(1..3) {
                bytes[*random.choice(&places).expect("there are some")] = random.u8(..);
            }
            let begun = Instant::now();
            let _read = read_all(bytes, random.choice(&options).expect("there are some"));
            assert!(begun.elapsed() < PATIENCE, "{kind}: change {n}");
        }
    }
}
