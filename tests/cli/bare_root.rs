//! On a rescue system: a root that has libc and this one program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::export::Served;
use crate::world::{MIB, Ran, World, disk, text};

/// What comes with libc itself.
const LIBC: [&str; 3] = ["libc.so.6", "libm.so.6", "ld-linux-"];

/// A root that holds the program and the libraries that it starts with.
struct Root {
    world: World,
}

impl Root {
    fn new() -> Self {
        let root = Self {
            world: World::empty(),
        };
        fs::create_dir(root.path("tmp")).expect("a folder can be made");
        let program = Path::new(env!("CARGO_BIN_EXE_cairn"));
        fs::copy(program, root.path("cairn")).expect("the program can be copied");
        for library in libraries(program) {
            let to = root.path(text(&library).trim_start_matches('/'));
            fs::create_dir_all(to.parent().expect("it lies in a folder")).expect("there is space");
            fs::copy(&library, to).expect("the library can be copied");
        }
        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.path("")).arg("/cairn").args(args);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/")
            .env("CAIRN_REPOSITORY", "/repository");
        command
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let ran = Ran::of(&mut self.command(args));
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out
    }
}

/// Returns the shared libraries that a program starts with.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let Output { stdout, status, .. } = Command::new("ldd")
        .arg(program)
        .output()
        .expect("ldd can be run (package libc-bin)");
    assert!(status.success());
    let listed = String::from_utf8(stdout).expect("paths are text");
    let paths = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}

#[test]
fn the_program_starts_with_libc_alone() {
    for library in libraries(Path::new(env!("CARGO_BIN_EXE_cairn"))) {
        let name = text(&library);
        let of_libc = LIBC.iter().any(|known| name.contains(known));
        assert!(
            of_libc,
            "{name} is needed to start: a call of libvirt that is missing in \
             engine/src/source/libvirt/library.rs, or .cargo/config.toml was not read"
        );
    }
}

#[test]
fn disks_and_files_are_restored_where_there_is_only_libc() {
    let root = Root::new();
    let bytes = disk(7, 3 * MIB);
    fs::write(root.path("disk.raw"), &bytes).expect("a disk can be written");
    fs::create_dir(root.path("files")).expect("a folder can be made");
    fs::write(root.path("files/hostname"), "rescued\n").expect("a file can be written");
    root.world.tool(
        "mke2fs",
        &["-q", "-t", "ext4", "-d", "files", "fs.raw", "8M"],
    );

    root.ok(&["init"]);
    root.ok(&[
        "backup",
        "web1",
        "--disk",
        "vda=/disk.raw",
        "--disk",
        "vdb=/fs.raw",
    ]);
    root.ok(&["verify"]);
    assert!(root.ok(&["ls", "web1:vdb/"]).contains("hostname"));
    root.ok(&["get", "web1:vdb/hostname", "/tmp"]);
    let got = fs::read(root.path("tmp/hostname")).expect("the file is there");
    assert_eq!(got, b"rescued\n");
    root.ok(&["restore", "web1", "--disk", "vda", "--to", "/tmp/vda.raw"]);
    let restored = fs::read(root.path("tmp/vda.raw")).expect("the disk is there");
    assert!(restored == bytes);

    let served = root.command(&["export", "web1:vda", "--socket", "/tmp/s"]);
    let served = Served::of(served, 1);
    let socket = root.path("tmp/s");
    let uri = format!("nbd+unix:///vda?socket={}", text(&socket));
    root.world.tool("nbdcopy", &[&uri, "copied.raw"]);
    assert_eq!(served.end("-TERM"), Some(0));
    let copied = fs::read(root.path("copied.raw")).expect("the copy is there");
    assert!(copied == bytes);
}

#[test]
fn a_domain_asks_for_libvirt_and_says_so() {
    let root = Root::new();
    root.ok(&["init"]);
    let ran = Ran::of(&mut root.command(&["backup", "web1"]));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("libvirt.so.0"), "{ran:?}");
    assert!(ran.err.contains("install its client library"), "{ran:?}");
    assert!(ran.err.contains("--disk"), "{ran:?}");
}
