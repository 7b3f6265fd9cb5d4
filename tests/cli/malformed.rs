//! Images that break their format's rules: a clear refusal, at once, and nothing published.

use std::fs;
use std::time::Instant;

use crate::waiting::PATIENCE;
use crate::world::{MIB, World, disk};

/// Where a header field lies, and what is put there.
struct Case {
    name: &'static str,
    offset: usize,
    bytes: &'static [u8],
}

const CASES: &[Case] = &[
    Case {
        name: "another magic",
        offset: 0,
        bytes: b"QFI\0",
    },
    Case {
        name: "version 9",
        offset: 4,
        bytes: &9_u32.to_be_bytes(),
    },
    Case {
        name: "cluster_bits 0",
        offset: 20,
        bytes: &0_u32.to_be_bytes(),
    },
    Case {
        name: "cluster_bits 63",
        offset: 20,
        bytes: &63_u32.to_be_bytes(),
    },
    Case {
        name: "a huge size",
        offset: 24,
        bytes: &u64::MAX.to_be_bytes(),
    },
    Case {
        name: "a huge L1",
        offset: 36,
        bytes: &u32::MAX.to_be_bytes(),
    },
    Case {
        name: "L1 outside",
        offset: 40,
        bytes: &(1_u64 << 50).to_be_bytes(),
    },
    Case {
        name: "unknown features",
        offset: 72,
        bytes: &[0xff; 8],
    },
];

fn refused(world: &World, name: &str) {
    let begun = Instant::now();
    let ran = world.run(["backup", "web1", "--disk", "vda=bad.qcow2,backing=allow"]);
    assert!(begun.elapsed() < PATIENCE, "{name}: {ran:?}");
    assert_eq!(ran.code, 1, "{name}: {ran:?}");
    assert!(ran.err.contains("bad.qcow2"), "{name}: {ran:?}");
    assert!(!ran.err.contains("panicked"), "{name}: {ran:?}");
}

#[test]
fn broken_headers_and_tables_are_refused() {
    let world = World::new();
    world.qcow2("good.qcow2", &disk(150, 2 * MIB), "");
    let good = fs::read(world.path("good.qcow2")).expect("the image can be read");
    for case in CASES {
        let mut bytes = good.clone();
        bytes[case.offset..][..case.bytes.len()].copy_from_slice(case.bytes);
        fs::write(world.path("bad.qcow2"), bytes).expect("there is space");
        refused(&world, case.name);
    }
    for len in [0, 3, 71, 105, 70_000, good.len() / 2] {
        fs::write(world.path("bad.qcow2"), &good[..len]).expect("there is space");
        refused(&world, &format!("{len} bytes of it"));
    }
    assert_eq!(world.json(["snapshots"]), serde_json::json!([]));
}

#[test]
fn a_backing_chain_that_bites_its_tail_is_refused() {
    let world = World::new();
    let create = |name: &str, backing: &str| {
        let args = [
            "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "qcow2", name, "4M",
        ];
        world.tool("qemu-img", &args);
    };
    create("bad.qcow2", "other.qcow2");
    create("other.qcow2", "bad.qcow2");
    refused(&world, "a loop of two");
    world.tool(
        "qemu-img",
        &[
            "rebase",
            "-u",
            "-b",
            "bad.qcow2",
            "-F",
            "qcow2",
            "bad.qcow2",
        ],
    );
    refused(&world, "a loop of one");
    fs::remove_file(world.path("bad.qcow2")).expect("it is there");
    create("bad.qcow2", "absent.qcow2");
    let ran = world.run(["backup", "web1", "--disk", "vda=bad.qcow2,backing=allow"]);
    ran.refused(1, "absent.qcow2");
}

#[test]
fn an_encrypted_image_is_refused_with_a_way_out() {
    let world = World::new();
    let secret = "--object=secret,id=s,data=x";
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let args = [
        "create",
        "-q",
        "-f",
        "qcow2",
        secret,
        "-o",
        options,
        "bad.qcow2",
        "4M",
    ];
    world.tool("qemu-img", &args);
    let ran = world.run(["backup", "web1", "--disk", "vda=bad.qcow2"]);
    ran.refused(1, "qemu-nbd");
    assert!(ran.err.contains("qemu-utils"), "{ran:?}");
}
