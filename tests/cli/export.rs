//! `cairn export`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::waiting::PATIENCE;
use crate::world::{KIB, MIB, Ran, World, disk, edit, text};

/// A server that is ready.
pub struct Served {
    pub child: Child,
    pub uris: Vec<String>,
}

impl Served {
    /// Starts `cairn export` and waits for the URIs of that many disks.
    pub fn start(world: &World, disks: usize, args: &[&str]) -> Self {
        Self::of(world.command(["export"].iter().chain(args)), disks)
    }

    pub fn of(mut command: Command, disks: usize) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command can be run");
        let out = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let uris = out.lines().take(disks);
        let uris: Vec<String> = uris.map(|line| line.expect("it is text")).collect();
        assert_eq!(uris.len(), disks, "the server did not start");
        Self { child, uris }
    }

    /// Sends a signal, and returns the code that the server ends with.
    pub fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().expect("it is a child").code()
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill can be run (package procps)").success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn id(report: &Value) -> String {
    report["snapshot"].as_str().expect("an id").to_owned()
}

fn read(world: &World, uri: &str) -> Vec<u8> {
    world.tool("nbdcopy", &[uri, "read.raw"]);
    std::fs::read(world.path("read.raw")).expect("it was copied")
}

#[test]
fn a_snapshot_is_served_under_its_names_until_a_signal() {
    let world = World::new();
    let bytes = disk(70, 9 * MIB + 513);
    world.raw("a.raw", &bytes);
    let snapshot = id(&world.backup("a.raw"));
    for signal in ["-TERM", "-INT", "-HUP"] {
        let served = Served::start(&world, 1, &["web1", "--socket", "s"]);
        let socket = world.path("s");
        let socket = text(&socket);
        assert_eq!(served.uris, [format!("nbd+unix:///vda?socket={socket}")]);
        assert!(read(&world, &served.uris[0]) == bytes);
        for name in ["", &format!("web1@{snapshot}/vda")] {
            let uri = format!("nbd+unix:///{name}?socket={socket}");
            let size = world.tool("nbdinfo", &["--size", &uri]);
            assert_eq!(size.trim(), bytes.len().to_string());
        }
        world.assert_equal(("raw", "a.raw"), ("raw", &served.uris[0]));
        assert_eq!(served.end(signal), Some(0));
        assert!(!world.path("s").exists());
    }
}

#[test]
fn a_client_may_start_its_server_itself() {
    for world in [World::new(), World::encrypted()] {
        let bytes = disk(71, 3 * MIB);
        world.raw("a.raw", &bytes);
        world.backup("a.raw");
        let mut nbdinfo = world.command::<&str>([]);
        let cairn = nbdinfo.get_program().to_owned();
        let envs: Vec<_> = nbdinfo
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
            .collect();
        nbdinfo = Command::new("nbdinfo");
        for (name, value) in envs {
            match value {
                Some(value) => nbdinfo.env(name, value),
                None => nbdinfo.env_remove(name),
            };
        }
        nbdinfo
            .args(["--json", "["])
            .arg(cairn)
            .args(["export", "web1:vda", "]"]);
        let ran = Ran::of(&mut nbdinfo);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.document()["exports"][0]["export-size"], bytes.len());
    }
}

#[test]
fn several_snapshots_and_disks_are_served_at_once() {
    let world = World::new();
    let (old, other) = (disk(72, 3 * MIB), disk(73, 2 * MIB + 1));
    let mut new = old.clone();
    edit(74, &mut new);
    world.raw("a.raw", &old);
    world.raw("b.raw", &other);
    let both = [
        "backup",
        "web1",
        "--disk",
        "vda=a.raw",
        "--disk",
        "vdb=b.raw",
    ];
    let first = id(&world.json(both));
    world.raw("a.raw", &new);
    let second = id(&world.json(both));
    let args = [
        &first[..12],
        &format!("{second}:vda"),
        "--listen",
        "127.0.0.1:0",
    ];
    let served = Served::start(&world, 3, &args);
    let expected = [
        (&first, "vda", &old),
        (&first, "vdb", &other),
        (&second, "vda", &new),
    ];
    for (uri, (snapshot, target, bytes)) in served.uris.iter().zip(expected) {
        assert!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
        assert!(
            uri.ends_with(&format!("/web1@{snapshot}/{target}")),
            "{uri}"
        );
        assert!(read(&world, uri) == *bytes, "{uri}");
    }
}

#[test]
fn what_is_ready_is_told_as_json_too() {
    let world = World::new();
    world.raw("a.raw", &disk(75, MIB));
    let snapshot = id(&world.backup("a.raw"));
    let mut command = world.command([
        "export",
        "web1",
        "--json",
        "--socket",
        "s",
        "--socket-mode",
        "660",
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be run");
    let out = BufReader::new(child.stdout.take().expect("it is a pipe"));
    let mut lines = Vec::new();
    for line in out.lines() {
        lines.push(line.expect("it is text"));
        if lines.last().is_some_and(|line| line == "}") {
            break;
        }
    }
    let report: Value = serde_json::from_str(&lines.join("\n")).expect("it is JSON");
    let export = &report["exports"][0];
    assert_eq!(export["name"], format!("web1@{snapshot}/vda"));
    assert_eq!(export["aliases"], serde_json::json!(["vda", ""]));
    assert_eq!(
        (&export["size"], &export["writable"]),
        (&MIB.into(), &false.into())
    );
    let mode = std::fs::metadata(world.path("s")).expect("it is there");
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
    assert_eq!(mode & 0o777, 0o660);
    let served = Served {
        child,
        uris: Vec::new(),
    };
    let taken = world.run(["export", "web1", "--socket", "s"]);
    taken.refused(1, "somebody listens on");
    assert_eq!(served.end("-KILL"), None);
    // What a killed server leaves behind is in nobody's way.
    let next = Served::start(&world, 1, &["web1", "--socket", "s"]);
    assert_eq!(next.end("-TERM"), Some(0));
}

/// Returns the parts that a context says are dirty.
fn dirty(world: &World, uri: &str, context: &str) -> Vec<std::ops::Range<usize>> {
    let map = format!("--map={context}");
    let map = world.tool("nbdinfo", &["--json", &map, uri]);
    let map: Value = serde_json::from_str(&map).expect("it is JSON");
    let number = |entry: &Value, name: &str| {
        let number = entry[name].as_u64().expect("a number");
        usize::try_from(number).expect("test disks are small")
    };
    let entries = map.as_array().expect("a list").iter();
    let dirty = entries.filter(|entry| entry["type"] == 1);
    dirty
        .map(|entry| {
            let offset = number(entry, "offset");
            offset..offset + number(entry, "length")
        })
        .collect()
}

#[test]
fn a_difference_is_enough_to_make_one_snapshot_of_another() {
    let world = World::new();
    let old = disk(76, 20 * MIB);
    let mut new = old.clone();
    edit(77, &mut new);
    new.extend(disk(78, 100 * KIB));
    world.raw("a.raw", &old);
    let base = id(&world.backup("a.raw"));
    world.raw("a.raw", &new);
    world.backup("a.raw");
    let served = Served::start(&world, 1, &["web1", "--socket", "s"]);
    for context in [
        format!("cairn:diff:{base}"),
        format!("qemu:dirty-bitmap:cairn-diff-{base}"),
    ] {
        let dirty = dirty(&world, &served.uris[0], &context);
        let sum: usize = dirty.iter().map(|range| range.len()).sum();
        assert!(sum < 4 << 20, "{sum}");
        let mut made = old.clone();
        made.resize(new.len(), 0);
        for range in dirty {
            made[range.clone()].copy_from_slice(&new[range]);
        }
        assert!(made == new, "{context}");
    }
}

#[test]
fn writes_go_to_an_overlay_and_outlive_a_killed_server() {
    let world = World::new();
    let bytes = disk(79, 8 * MIB);
    world.raw("a.raw", &bytes);
    let snapshot = id(&world.backup("a.raw"));
    let args = ["web1", "--socket", "s", "--writable", "over"];
    let served = Served::start(&world, 1, &args);
    let uri = served.uris[0].clone();
    let write = [
        "-f",
        "raw",
        "-c",
        "write -P 0x5a 1M 100k",
        "-c",
        "write -z 3M 64k",
        &uri,
    ];
    world.tool("qemu-io", &write);
    assert_eq!(served.end("-KILL"), None);

    let served = Served::start(&world, 1, &args);
    let mut expected = bytes.clone();
    expected[1 << 20..(1 << 20) + 102_400].fill(0x5a);
    expected[3 << 20..(3 << 20) + 65_536].fill(0);
    assert!(read(&world, &uri) == expected);
    let dirty = dirty(&world, &uri, &format!("cairn:diff:{snapshot}"));
    let holds = |at: usize| dirty.iter().any(|range| range.contains(&at));
    assert!(
        holds(1 << 20) && holds((1 << 20) + 102_399) && holds(3 << 20),
        "{dirty:?}"
    );
    let sum: usize = dirty.iter().map(|range| range.len()).sum();
    assert!(sum <= 102_400 + 65_536 + 2 * 65_536, "{dirty:?}");
    let second = world.run(["export", "web1", "--socket", "s2", "--writable", "over"]);
    assert_eq!(second.code, 1, "{second:?}");
    assert_eq!(served.end("-TERM"), Some(0));
    assert!(world.restored("web1") == bytes, "the snapshot changed");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = World::new();
    world.raw("a.raw", &disk(80, MIB));
    world.backup("a.raw");
    let first = id(&world.backup("a.raw"));
    let second = id(&world.backup("a.raw"));
    world
        .run(["export", "web1"])
        .refused(2, "--socket PATH or --listen");
    world
        .run(["export", "web1:vdz", "--socket", "s"])
        .refused(2, "no disk `vdz`");
    let unknown = world.run(["export", "nobody", "--socket", "s"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    let two = [
        "export",
        &first,
        &second,
        "--socket",
        "s",
        "--writable",
        "o",
    ];
    world.run(two).refused(2, "one snapshot");
    world
        .run(["export", "web1", "--socket", "a.raw"])
        .refused(1, "not a socket");
    world
        .run(["export", "web1", "--listen", "nonsense"])
        .refused(1, "cannot listen");
    let tls = [
        "export",
        "web1",
        "--socket",
        "s",
        "--tls-certificates",
        "nowhere",
    ];
    assert_eq!(world.run(tls).code, 1);
    assert!(!world.path("s").exists());
}

#[test]
fn clients_that_read_nothing_cost_bounded_memory_and_hurt_nobody() {
    let world = World::new();
    let bytes = disk(81, 64 * MIB);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    let served = Served::start(&world, 1, &["web1", "--socket", "s"]);
    let silent: Vec<UnixStream> = (0..60).map(|_| greedy(&world)).collect();
    let began = Instant::now();
    assert!(read(&world, &served.uris[0]) == bytes);
    assert!(began.elapsed() < PATIENCE);
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.child.id()));
    let status = status.expect("the server runs");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|most| most.trim().strip_suffix(" kB"));
    let most: u64 = most.expect("it is told").parse().expect("a number");
    assert!(most < 256 * 1024, "{most} KiB");
    drop(silent);
    assert_eq!(served.end("-TERM"), Some(0));
}

/// Connects, and asks for 32 MiB again and again without taking any.
fn greedy(world: &World) -> UnixStream {
    let mut stream = UnixStream::connect(world.path("s")).expect("the server listens");
    stream.read_exact(&mut [0; 18]).expect("it greets");
    let mut asked = vec![0, 0, 0, 3];
    // NBD_OPT_STRUCTURED_REPLY, then NBD_OPT_EXPORT_NAME of the default export.
    for option in [8, 1] {
        asked.extend_from_slice(b"IHAVEOPT");
        asked.extend_from_slice(&[0, 0, 0, option, 0, 0, 0, 0]);
    }
    for _ in 0..1000 {
        asked.extend_from_slice(&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0]);
        asked.extend_from_slice(&[0; 16]);
        asked.extend_from_slice(&[2, 0, 0, 0]);
    }
    let timeout = Some(Duration::from_millis(200));
    stream.set_write_timeout(timeout).expect("it is not zero");
    drop(stream.write_all(&asked));
    stream
}
