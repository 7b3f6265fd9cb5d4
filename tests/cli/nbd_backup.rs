//! `cairn backup` from NBD servers.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::waiting::{PATIENCE, wait_for};
use crate::world::{KIB, MIB, World, disk, text};

/// A server on the socket `nbd` of a world, ended with the test.
struct Server(Child);

impl Server {
    fn start(world: &World, tool: &str, args: &[&str]) -> Self {
        let socket = world.path("nbd");
        drop(std::fs::remove_file(&socket));
        let child = Command::new(tool)
            .args(args)
            .current_dir(world.path("."))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {tool}: {error}"));
        let what = format!("{tool} listens");
        wait_for(&what, || is_listened_on(&socket));
        Self(child)
    }

    fn qemu(world: &World, bitmap: &str) -> Self {
        let socket = world.path("nbd");
        let args = ["-r", "-t", "-e", "8", "-x", "vda", "-f", "qcow2"];
        let more = ["-B", bitmap, "-k", text(&socket), "a.qcow2"];
        Self::start(world, "qemu-nbd", &[&args[..], &more].concat())
    }

    fn end(mut self) {
        self.0.kill().expect("the child is ours");
        self.0.wait().expect("the child is ours");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Returns whether nbdkit was asked for something, by the log that its filter keeps.
fn was_asked(world: &World, what: &str) -> bool {
    let log = std::fs::read_to_string(world.path("log")).unwrap_or_default();
    log.contains(&format!(" {what} "))
}

/// Returns whether a server accepts connections there, without making one: some servers end with
/// their first client.
fn is_listened_on(socket: &Path) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("Linux lists its sockets");
    // Flags of a socket that listens, as the kernel writes them.
    let listening = |line: &&str| line.contains(" 00010000 ");
    let mut listening = sockets.lines().filter(listening);
    listening.any(|line| line.ends_with(text(socket)))
}

fn source(world: &World, more: &str) -> String {
    let socket = world.path("nbd");
    format!("vda=nbd+unix:///vda?socket={}{more}", text(&socket))
}

fn world(len: u64) -> World {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(40, len), "");
    world.tool("qemu-img", &["bitmap", "--add", "a.qcow2", "b0"]);
    world
}

#[test]
fn a_bitmap_over_nbd_gives_the_recipe_of_a_full_backup() {
    let world = world(96 * MIB);
    let server = Server::qemu(&world, "b0");
    let first = world.json(["backup", "web1", "--disk", &source(&world, "")]);
    assert_eq!(first["disks"][0]["mode"], "full");
    server.end();
    // Scattered blocks, as a guest writes them.
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..24 {
        let (fill, at) = (random.u8(1..), random.u64(0..96 * 16) * 64 * KIB);
        world.write("a.qcow2", &[&format!("write -P {fill} {at} 64k")]);
    }
    let server = Server::qemu(&world, "b0");
    let bitmap = source(&world, ",bitmap=qemu:dirty-bitmap:b0");
    let done = world.json(["backup", "web1", "--disk", &bitmap, "--parent", "web1"]);
    let numbers = &done["disks"][0];
    assert_eq!(numbers["mode"], "incremental");
    let number = |name: &str| numbers[name].as_u64().expect("a number");
    let (read, dirty) = (number("read_bytes"), number("dirty_bytes"));
    assert_eq!(dirty % (64 * KIB), 0);
    assert!(
        dirty > 0 && read * 10 <= dirty * 17,
        "{read} read of {dirty} dirty"
    );
    let whole = world.json(["backup", "web1", "--disk", &source(&world, "")]);
    assert_eq!(whole["disks"][0]["mode"], "scan");
    assert_eq!(whole["disks"][0]["recipe"], numbers["recipe"]);
    assert_eq!(whole["disks"][0]["new_chunks"], 0);
    server.end();
    let file = world.backup("a.qcow2");
    assert_eq!(file["disks"][0]["recipe"], numbers["recipe"]);

    let shown = world.json(["show", done["snapshot"].as_str().expect("an id")]);
    let record = shown["disks"][0]["source"].as_str();
    assert!(
        record.is_some_and(|record| record.starts_with("nbd+unix:///vda?")),
        "{shown}"
    );
}

#[test]
fn what_cannot_be_is_refused_and_publishes_nothing() {
    let world = world(2 * MIB);
    let server = Server::qemu(&world, "b0");
    world.json(["backup", "web1", "--disk", &source(&world, "")]);
    let refused = |more: &str, code: i32, saying: &str| {
        let line = [
            "backup",
            "web1",
            "--parent",
            "web1",
            "--disk",
            &source(&world, more),
        ];
        world.run(line).refused(code, saying);
    };
    refused(",bitmap=b7", 1, "`qemu:dirty-bitmap:b0`");
    refused(",format=raw", 2, "NBD URI");
    refused(",delta", 2, "NBD URI");
    refused("&tls-certificates=/x", 2, "nbds");
    refused("&sokcet=x", 2, "`sokcet`");
    server.end();
    refused("", 1, "cannot connect");
    let snapshots = world.json(["snapshots"]);
    let count = snapshots.as_array().map(Vec::len);
    assert_eq!(count, Some(1), "{snapshots}");
}

#[test]
fn a_server_that_dies_in_mid_backup_publishes_nothing() {
    let world = World::new();
    let socket = world.path("nbd");
    let args = [
        "-f",
        "-U",
        text(&socket),
        "--filter=log",
        "--filter=delay",
        "pattern",
        "512M",
        "rdelay=300ms",
        "logfile=log",
    ];
    let server = Server::start(&world, "nbdkit", &args);
    let uri = format!("vda=nbd+unix:///?socket={}", text(&socket));
    let command = &mut world.command(["backup", "web1", "--disk", &uri]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let backup = command.spawn().expect("cairn runs");
    wait_for("a read", || was_asked(&world, "Read"));
    server.end();
    let ended = backup.wait_with_output().expect("cairn ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("the server closed the connection"), "{said}");
    let snapshots = world.json(["snapshots"]);
    let count = snapshots.as_array().map(Vec::len);
    assert_eq!(count, Some(0), "{snapshots}");
}

#[test]
fn a_signal_ends_a_backup_that_waits_for_a_server() {
    let world = World::new();
    let socket = world.path("nbd");
    let args = ["-f", "-U", text(&socket), "--filter=log", "--filter=delay"];
    // One has bytes to read and no extents to tell, the other nothing but extents.
    for (plugin, slow, asked) in [
        ("pattern", "rdelay=600", "Read"),
        ("memory", "delay-extents=600", "Extents"),
    ] {
        drop(std::fs::remove_file(world.path("log")));
        let args = [&args[..], &[plugin, "64M", slow, "logfile=log"]].concat();
        let server = Server::start(&world, "nbdkit", &args);
        let uri = format!("vda=nbd+unix:///?socket={}", text(&socket));
        let command = &mut world.command(["backup", "web1", "--disk", &uri]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let backup = command.spawn().expect("cairn runs");
        wait_for(asked, || was_asked(&world, asked));
        let told = Instant::now();
        world.tool("kill", &["-s", "INT", &backup.id().to_string()]);
        let ended = backup.wait_with_output().expect("cairn ends");
        assert!(told.elapsed() < PATIENCE, "{slow}: {ended:?}");
        assert_eq!(ended.status.code(), Some(130), "{slow}: {ended:?}");
        server.end();
    }
    assert_eq!(world.json(["snapshots"]), serde_json::json!([]));
}

#[test]
fn a_server_that_fails_to_tell_is_read_whole_with_a_warning() {
    let world = World::new();
    let socket = world.path("nbd");
    world.raw("a.raw", &disk(41, 8 * MIB));
    let args = ["-f", "-U", text(&socket), "--filter=error", "file", "a.raw"];
    let fails = ["error-extents=EIO", "error-extents-rate=100%"];
    let _server = Server::start(&world, "nbdkit", &[&args[..], &fails].concat());
    let uri = format!("vda=nbd+unix:///?socket={}", text(&socket));
    let done = world.json(["backup", "web1", "--disk", &uri]);
    let warned = done["warnings"][0].as_str().unwrap_or_default();
    assert!(warned.contains("EIO"), "{done}");
    let file = world.backup("a.raw");
    assert_eq!(file["disks"][0]["recipe"], done["disks"][0]["recipe"]);
}

/// The message on an encrypted image tells the commands that read it.
#[test]
fn an_encrypted_qcow2_is_backed_up_as_its_refusal_says() {
    let world = World::new();
    world.raw("source.raw", &disk(42, 4 * MIB));
    std::fs::write(world.path("key"), "secret").expect("can be written");
    let secret = ["--object", "secret,id=key,file=key"];
    let luks = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let create = [
        &["create", "-q"],
        &secret[..],
        &["-f", "qcow2", "-o", luks, "a,b.qcow2", "4M"],
    ];
    world.tool("qemu-img", &create.concat());
    let image = "driver=qcow2,encrypt.key-secret=key,file.driver=file,file.filename=a,,b.qcow2";
    let convert = [
        "convert",
        "-n",
        "--target-image-opts",
        "-f",
        "raw",
        "source.raw",
        image,
    ];
    world.tool(
        "qemu-img",
        &[&convert[..1], &secret, &convert[1..]].concat(),
    );

    let refused = world.run(["backup", "web1", "--disk", "vda=a,,b.qcow2"]);
    refused.refused(1, "is encrypted (LUKS)");
    let socket = world.path("nbd");
    let said = refused
        .err
        .replace("SOCKET", text(&socket))
        .replace("KEYFILE", "key");
    let mut commands = said.split('`').skip(1).step_by(2);
    let serve: Vec<&str> = commands.next().expect("a command").split(' ').collect();
    let option = commands
        .next()
        .and_then(|option| option.split_once(" TARGET="));
    let (_, uri) = option.expect("the option of the backup");
    let _server = Server::start(&world, serve[0], &serve[1..]);
    let done = world.json(["backup", "web1", "--disk", &format!("vda={uri}")]);
    let plain = world.backup("source.raw");
    assert_eq!(done["disks"][0]["recipe"], plain["disks"][0]["recipe"]);
}
