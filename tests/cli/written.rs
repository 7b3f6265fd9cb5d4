//! Images that somebody writes to while they are read.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;

use serde_json::Value;

use crate::waiting::wait_for;
use crate::world::{MIB, Ran, World, disk};

const SIZE: u64 = 32 * MIB;

/// Runs a backup at a rate that takes seconds, and does something in the midst of it, while it
/// stands still.
#[track_caller]
fn meanwhile(world: &World, disk: &str, more: &[&str], act: impl FnOnce(&World)) -> Ran {
    let args = ["backup", "web1", "--limit", "4MiB", "--disk", disk];
    let mut command = world.command(args.iter().chain(more));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command can be run");
    // Its session: by then the disks are open.
    wait_for("the reading", || !world.stored("locks").is_empty());
    let signal = |child: &Child, name| {
        world.tool("kill", &["-s", name, &child.id().to_string()]);
    };
    signal(&child, "STOP");
    assert!(
        child.try_wait().expect("known").is_none(),
        "it ended too early"
    );
    act(world);
    signal(&child, "CONT");
    child.wait_with_output().expect("it ends").into()
}

fn none_published(world: &World) {
    assert_eq!(world.json(["snapshots"]), serde_json::json!([]));
}

/// Writes at the beginning and at the end: before the reader and behind it.
fn write(path: &Path) {
    let file = File::options().write(true).open(path).expect("it is there");
    for at in [4096, SIZE - 4096] {
        file.write_all_at(b"written meanwhile", at)
            .expect("it can be written");
    }
}

/// What is done to `a.raw`, and what is said of it.
type Case = (&'static str, fn(&World));

const CASES: [Case; 5] = [
    ("was written to", |world| write(&world.path("a.raw"))),
    ("has grown", |world| {
        let file = File::options().append(true).open(world.path("a.raw"));
        let mut file = file.expect("it is there");
        file.write_all(&[7; 4096]).expect("it can be written");
    }),
    ("has become shorter", |world| {
        let file = File::options().write(true).open(world.path("a.raw"));
        let file = file.expect("it is there");
        file.set_len(SIZE / 2).expect("it can be cut");
    }),
    ("its times were set", |world| {
        let path = world.path("a.raw");
        let before = fs::metadata(&path).expect("it is there");
        let before = before.modified().expect("there are times");
        write(&path);
        let file = File::options().write(true).open(&path);
        let file = file.expect("it is there");
        file.set_times(FileTimes::new().set_modified(before))
            .expect("it is ours");
    }),
    ("was replaced by another file", |world| {
        fs::copy(world.path("a.raw"), world.path("b.raw")).expect("there is space");
        world.tool("mv", &["b.raw", "a.raw"]);
    }),
];

#[test]
fn a_raw_image_that_changes_while_it_is_read_is_not_published() {
    let check = |said: &str, act: fn(&World)| {
        let world = World::new();
        world.raw("a.raw", &disk(300, SIZE));
        let ran = meanwhile(&world, "vda=a.raw", &[], act);
        ran.refused(1, said);
        assert!(ran.err.contains("a.raw"), "{ran:?}");
        assert!(ran.err.contains("--if-written mark"), "{ran:?}");
        none_published(&world);
        // Nothing is wrong with the next one.
        let bytes = fs::read(world.path("a.raw")).expect("it is there");
        world.backup("a.raw");
        assert!(world.restored("web1") == bytes);
    };
    // All at once: each waits for its rate.
    thread::scope(|scope| {
        for (said, act) in CASES {
            scope.spawn(move || check(said, act));
        }
    });
}

#[test]
fn so_it_is_for_every_file_that_an_image_names() {
    for (options, more) in [
        ("backing_file=b.raw,backing_fmt=raw", "backing=allow"),
        ("data_file=b.raw", "data-file=allow"),
    ] {
        let world = World::new();
        world.raw("b.raw", &disk(301, SIZE));
        let size = SIZE.to_string();
        world.tool(
            "qemu-img",
            &[
                "create", "-q", "-f", "qcow2", "-o", options, "a.qcow2", &size,
            ],
        );
        world.write("a.qcow2", &["write -P 3 0 32M"]);
        let args = format!("vda=a.qcow2,{more}");
        let ran = meanwhile(&world, &args, &[], |world| write(&world.path("b.raw")));
        ran.refused(1, "b.raw was written to");
        none_published(&world);
    }
}

#[test]
fn so_it_is_where_a_guest_is_started_meanwhile() {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(302, SIZE), "");
    let ran = meanwhile(&world, "vda=a.qcow2,bitmap=auto", &[], |world| {
        world.write("a.qcow2", &["write -P 9 20M 64k"]);
    });
    ran.refused(1, "a.qcow2");
    none_published(&world);
}

/// qemu-nbd with an image open.
struct Server(Child);

impl Server {
    fn start(world: &World, format: &str, image: &str, more: &[&str]) -> Self {
        let mut command = std::process::Command::new("qemu-nbd");
        command.args(["--persistent", "--verbose", "-f", format]);
        command.arg(format!("--socket={}", world.path("s").display()));
        command.args(more).arg(world.path(image));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().expect("qemu-nbd can be run"));
        wait_for("the server", || world.path("s").exists());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn torn(made: &Value) -> &str {
    made["disks"][0]["torn"].as_str().unwrap_or_default()
}

#[test]
fn an_image_that_somebody_may_write_to_is_refused_or_marked() {
    for (format, image) in [("raw", "a.raw"), ("qcow2", "a.qcow2")] {
        let world = World::new();
        world.raw("a.raw", &disk(303, MIB));
        world.qcow2("a.qcow2", &disk(303, MIB), "");
        let disk = format!("vda={image}");
        let marked = ["backup", "web1", "--disk", &disk, "--if-written", "mark"];
        let reader = Server::start(&world, format, image, &["--read-only"]);
        world.backup(image);
        let ran = world.run(marked.iter().chain(&["--json"]));
        assert_eq!((ran.code, torn(&ran.document())), (0, ""), "{ran:?}");
        drop(reader);
        fs::remove_file(world.path("s")).expect("it was made");
        let _writer = Server::start(&world, format, image, &[]);
        let ran = world.run(["backup", "web1", "--disk", &disk]);
        ran.refused(11, "open for writing in qemu-nbd (process ");
        assert!(ran.err.contains("--if-written mark"), "{ran:?}");
        let ran = world.run(marked.iter().chain(&["--json"]));
        assert_eq!(ran.code, 3, "{ran:?}");
        let made = ran.document();
        assert!(
            torn(&made).contains("open for writing in qemu-nbd"),
            "{made}"
        );
        assert!(ran.err.contains("of no one moment"), "{ran:?}");
    }
}

#[test]
fn a_mark_is_shown_wherever_the_snapshot_is_named() {
    let world = World::new();
    world.raw("a.raw", &disk(304, SIZE));
    let more = ["--if-written", "mark", "--json"];
    let ran = meanwhile(&world, "vda=a.raw", &more, |world| {
        write(&world.path("a.raw"))
    });
    assert_eq!(ran.code, 3, "{ran:?}");
    let made = ran.document();
    assert!(torn(&made).contains("a.raw was written to"), "{made}");
    assert!(made["warnings"][0].as_str().is_some(), "{made}");
    assert!(world.ok(["snapshots"]).contains("vda(torn)"));
    let listed = world.json(["snapshots"]);
    assert!(torn(&listed[0]).contains("was written to"), "{listed}");
    assert!(world.ok(["show", "web1"]).contains("torn "));
    for command in [
        &["restore", "web1", "--disk", "vda", "--to", "back.raw"][..],
        &["show", "web1"],
    ] {
        let ran = world.run(command);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains("of no one moment"), "{ran:?}");
    }
    // Nothing is wrong with one that is read in peace.
    let ran = world.run([
        "backup",
        "web1",
        "--disk",
        "vda=a.raw",
        "--if-written",
        "mark",
    ]);
    assert_eq!((ran.code, &*ran.err), (0, ""), "{ran:?}");
    assert!(!world.ok(["show", "web1"]).contains("torn"));
}

#[test]
fn nothing_is_computed_from_what_is_of_no_one_moment() {
    let world = World::new();
    world.qcow2("a.qcow2", &disk(305, SIZE), "");
    world.tool("qemu-img", &["bitmap", "--add", "a.qcow2", "b0"]);
    let auto = "vda=a.qcow2,bitmap=auto";
    world.backup("a.qcow2,bitmap=auto");
    let ran = meanwhile(&world, auto, &["--if-written", "mark", "--json"], |world| {
        world.write("a.qcow2", &["write -P 9 20M 64k"]);
    });
    assert_eq!(ran.code, 3, "{ran:?}");
    let torn = ran.document()["snapshot"]
        .as_str()
        .expect("an id")
        .to_owned();
    let by_hand = "vda=a.qcow2,bitmap=b0";
    for args in [
        vec!["backup", "web1", "--disk", by_hand, "--parent", &torn],
        vec!["backup", "web1", "--disk", auto],
    ] {
        let ran = world.run(args.iter().chain(&["--json"]));
        assert_eq!(ran.code, 0, "{ran:?}");
        let made = ran.document();
        assert_eq!(made["disks"][0]["mode"], "scan", "{made}");
        let id = made["snapshot"].as_str().expect("an id");
        world.ok(["restore", id, "--disk", "vda", "--to", "back.raw"]);
        world.assert_equal(("qcow2", "a.qcow2"), ("raw", "back.raw"));
        fs::remove_file(world.path("back.raw")).expect("it was restored");
    }
    let delta = [
        "backup",
        "web1",
        "--disk",
        "vda=a.qcow2,delta",
        "--parent",
        &torn,
    ];
    world
        .run(delta)
        .refused(1, "nothing can be computed from it");
}
