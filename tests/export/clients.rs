//! Clients that others wrote.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::disks::{Fixed, MemoryDisk};
use crate::world::{Options, World, export};

const SIZE: usize = 5 << 20;
const DIRTY: [std::ops::Range<u64>; 2] = [65_536..131_072, 1 << 20..(1 << 20) + 8192];

fn bitmap() -> String {
    format!("qemu:dirty-bitmap:cairn-diff-{}", Fixed::id(1))
}

fn diff() -> String {
    format!("cairn:diff:{}", Fixed::id(1))
}

/// Serves a disk with holes and differences over a unix socket, or over TCP.
fn world(is_tcp: bool, is_writable: bool) -> (World, Arc<MemoryDisk>) {
    let bytes = MemoryDisk::mixed(SIZE);
    let disk = match is_writable {
        true => MemoryDisk::writable(bytes),
        false => MemoryDisk::new(bytes),
    };
    let changes = Fixed(BTreeMap::from([(Fixed::id(1), DIRTY.to_vec())]));
    let world = World::with(Options {
        is_tcp,
        ..Options::of(vec![export(disk.clone(), Some(Arc::new(changes)))])
    });
    (world, disk)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("the tool prints JSON")
}

#[test]
fn nbdinfo_sees_what_there_is() {
    for is_tcp in [false, true] {
        let (world, _) = world(is_tcp, false);
        let seen = json(&world.tool("nbdinfo", &["--json", &world.uri("vda")]));
        let export = &seen["exports"][0];
        assert_eq!(export["export-size"], SIZE);
        assert_eq!(export["description"], "a disk of a test");
        assert_eq!(export["is_read_only"], true);
        for able in [
            "can_multi_conn",
            "can_df",
            "can_flush",
            "can_fua",
            "can_cache",
        ] {
            assert_eq!(export[able], true, "{able}");
        }
        let contexts = export["contexts"].as_array().expect("a list");
        let expected = ["base:allocation".to_owned(), diff(), bitmap()];
        assert_eq!(*contexts, expected);
        let listed = world.tool("nbdinfo", &["--list", &world.uri("")]);
        assert!(listed.contains("export=\"vda\""), "{listed}");

        let map = |context: &str| {
            let map = format!("--map={context}");
            let map = json(&world.tool("nbdinfo", &["--json", &map, &world.uri("vda")]));
            let entries = map.as_array().expect("a list").iter();
            let number = |entry: &serde_json::Value, name: &str| entry[name].as_u64();
            entries
                .map(|entry| {
                    let kind = number(entry, "type").expect("a number");
                    let offset = number(entry, "offset").expect("a number");
                    let length = number(entry, "length").expect("a number");
                    (kind, offset..offset + length)
                })
                .collect::<Vec<_>>()
        };
        let unit = 65_536;
        let allocation = map("base:allocation");
        assert_eq!(
            allocation[..3],
            [
                (0, 0..2 * unit),
                (3, 2 * unit..4 * unit),
                (0, 4 * unit..6 * unit)
            ]
        );
        for context in [diff(), bitmap()] {
            let dirty = map(&context).into_iter().filter(|entry| entry.0 == 1);
            let dirty: Vec<_> = dirty.map(|entry| entry.1).collect();
            assert_eq!(dirty, DIRTY);
        }
    }
}

#[test]
fn nbdcopy_copies_both_ways() {
    let (world, disk) = world(false, true);
    world.tool("nbdcopy", &[&world.uri("vda"), "copy.raw"]);
    let copied = std::fs::read(world.path("copy.raw")).expect("it was copied");
    assert!(copied == MemoryDisk::mixed(SIZE));
    let mut other = MemoryDisk::mixed(SIZE + 1);
    other.truncate(SIZE);
    std::fs::write(world.path("other.raw"), &other).expect("there is space");
    world.tool("nbdcopy", &["--flush", "other.raw", &world.uri("vda")]);
    assert!(*disk.lock() == other);
    world.tool(
        "nbdcopy",
        &["--no-extents", "--requests=64", &world.uri(""), "all.raw"],
    );
    assert!(std::fs::read(world.path("all.raw")).expect("it was copied") == other);
}

#[test]
fn libnbd_uses_every_command() {
    let (world, disk) = world(false, true);
    let script = "
seen = []
def chunk(buf, offset, kind, error):
    seen.append((offset, len(buf), kind))
buf = h.pread_structured(4 * 65536, 65536, chunk)
assert {kind for _, _, kind in seen} == {nbd.READ_DATA, nbd.READ_HOLE}, seen
seen.clear()
assert h.pread_structured(4 * 65536, 65536, chunk, nbd.CMD_FLAG_DF) == buf
assert len(seen) == 1 and seen[0][2] == nbd.READ_DATA, seen
h.cache(65536, 0)
h.pwrite(b'x' * 5000, 70000, nbd.CMD_FLAG_FUA)
assert h.pread(5000, 70000) == b'x' * 5000
h.zero(4096, 70000, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
h.trim(904, 74096)
assert h.pread(5000, 70000) == bytes(5000)
h.flush()
found = {}
def status(context, offset, entries, error):
    found[context] = entries
h.block_status(1 << 20, 0, status)
assert found['base:allocation'][:4] == [131072, 0, 131072, 3], found
h.block_status(1 << 20, 65536, status, nbd.CMD_FLAG_REQ_ONE)
assert all(len(entries) == 2 for entries in found.values()), found
h.set_strict_mode(0)
for bad in [lambda: h.pread(10, h.get_size()), lambda: h.pwrite(b'x', h.get_size())]:
    try:
        bad()
        assert False
    except nbd.Error as error:
        assert error.errnum in (errno.EINVAL, errno.ENOSPC), error
h.shutdown()
";
    world.nbdsh(&["base:allocation", &diff()], script);
    assert_eq!(disk.lock()[70_000..75_000], [0; 5000]);
}

#[test]
fn qemu_reads_compares_and_maps() {
    for is_tcp in [false, true] {
        let (world, _) = world(is_tcp, false);
        let uri = world.uri("vda");
        let seen = json(&world.tool("qemu-img", &["info", "--output=json", "-f", "raw", &uri]));
        assert_eq!(seen["virtual-size"], SIZE);
        std::fs::write(world.path("source.raw"), MemoryDisk::mixed(SIZE)).expect("there is space");
        let compare = ["compare", "-f", "raw", "-F", "raw", "source.raw", &uri];
        world.tool("qemu-img", &compare);
        world.tool(
            "qemu-img",
            &["convert", "-f", "raw", "-O", "qcow2", &uri, "copy.qcow2"],
        );
        let compare = [
            "compare",
            "-f",
            "raw",
            "-F",
            "qcow2",
            "source.raw",
            "copy.qcow2",
        ];
        world.tool("qemu-img", &compare);
        let map = json(&world.tool("qemu-img", &["map", "--output=json", "-f", "raw", &uri]));
        let data = map.as_array().expect("a list").iter();
        let data: u64 = data
            .filter(|entry| entry["data"] == true)
            .map(|entry| entry["length"].as_u64().expect("a number"))
            .sum();
        assert_eq!(data, SIZE as u64 / 2);
    }
}

#[test]
fn qemu_sees_a_difference_as_a_dirty_bitmap() {
    let (world, _) = world(false, false);
    let image = format!(
        "driver=nbd,server.type=unix,server.path={},export=vda,x-dirty-bitmap={}",
        world.socket().display(),
        bitmap()
    );
    let map = world.tool(
        "qemu-img",
        &["map", "--output=json", "--image-opts", &image],
    );
    // To QEMU, what is dirty looks like what holds no data.
    let map = json(&map);
    let dirty = map.as_array().expect("a list").iter();
    let dirty: Vec<_> = dirty
        .filter(|entry| entry["data"] == false)
        .map(|entry| {
            let start = entry["start"].as_u64().expect("a number");
            start..start + entry["length"].as_u64().expect("a number")
        })
        .collect();
    assert_eq!(dirty, DIRTY);
}

#[test]
fn qemu_io_writes_what_it_reads() {
    let (world, disk) = world(false, true);
    let uri = world.uri("vda");
    let commands = [
        "write -P 0x11 0 1M",
        "write -P 0x22 -f 1M 4k",
        "aio_write -P 0x33 2M 1M",
        "aio_flush",
        "write -z 100k 64k",
        "write -zu 300k 64k",
        "discard 2M 64k",
        "flush",
        "read -P 0x11 0 100k",
        "read -P 0 100k 64k",
        "read -P 0 300k 64k",
        "read -P 0x22 1M 4k",
        "read -P 0x33 2112k 64k",
    ];
    let mut args = vec!["-f", "raw"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(&uri);
    let said = world.tool("qemu-io", &args);
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(disk.lock()[1 << 20], 0x22);
}

#[test]
fn the_nbd_crate_reads_in_the_old_way() {
    let (world, _) = world(false, false);
    let mut stream = world.connect();
    let seen = nbd::client::handshake(&mut stream, b"vda").expect("they agree");
    assert_eq!(seen.size, SIZE as u64);
    let mut client = nbd::client::NbdClient::new(&mut stream, &seen);
    let expected = MemoryDisk::mixed(SIZE);
    let mut random = fastrand::Rng::with_seed(crate::seed());
    for _ in 0..50 {
        let offset = random.usize(0..SIZE - 300_000);
        let mut buf = vec![0; random.usize(1..300_000)];
        client
            .seek(SeekFrom::Start(offset as u64))
            .expect("it is within the disk");
        client.read_exact(&mut buf).expect("it reads");
        assert!(buf == expected[offset..offset + buf.len()]);
    }
}
