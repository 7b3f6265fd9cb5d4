//! Who may not write reads all the same: on a read-only file system, and with the right to read
//! and no other. Needs root, to take such rights away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::export::Served;
use crate::guest_disks::{HostMount, format, populate};
use crate::world::{MIB, Ran, World, text};

/// The user that may read and not write.
const NOBODY: &str = "65534";

/// What is in the way of writing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// The repository is mounted read-only, in a namespace of the command's own.
    ReadOnly,
    /// The command is run by a user with the right to read.
    Denied,
}

use Way::{Denied, ReadOnly};

impl Way {
    fn says(self) -> &'static str {
        match self {
            ReadOnly => "the repository is on a read-only file system, so nobody is told",
            Denied => "you may not write to the repository, so nobody is told",
        }
    }

    /// Returns the command as it is run in this way.
    fn command(self, world: &World, args: &[&str]) -> Command {
        let plain = world.command(args);
        let mut command = match self {
            ReadOnly => {
                let mut command = Command::new("unshare");
                let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && \
                              exec \"$@\"";
                command.args(["-m", "sh", "-ec", script]);
                command.arg(world.repository()).arg(plain.get_program());
                command
            }
            Denied => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
                command.arg(reachable(world, plain.get_program().as_ref()));
                command
            }
        };
        command.args(args);
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(world.path("out"));
        command
    }

    #[track_caller]
    fn run(self, world: &World, args: &[&str]) -> Ran {
        Ran::of(&mut self.command(world, args))
    }

    /// Runs what only reads, which must succeed and say once what it goes without.
    #[track_caller]
    fn reads(self, world: &World, args: &[&str]) -> String {
        let ran = self.run(world, args);
        assert_eq!(ran.code, 0, "{self:?} {args:?}: {ran:?}");
        assert_eq!(ran.err.matches(self.says()).count(), 1, "{args:?}: {ran:?}");
        assert_eq!(
            ran.err.matches("warning: ").count(),
            1 + usize::from(args[0] == "verify")
        );
        ran.out
    }
}

/// Returns a path of the command that everybody may run.
fn reachable(world: &World, cairn: &Path) -> PathBuf {
    let copy = world.path("cairn");
    if !copy.exists() {
        fs::copy(cairn, &copy).expect("there is space");
    }
    copy
}

/// A repository with two snapshots of a disk with files, which everybody may read.
fn open_to_readers(mut world: World) -> World {
    format(&world, "ext4", "disk.raw", 32 * MIB);
    populate(&HostMount::new(&world, "disk.raw", "rw").path, 3);
    world.backup("disk.raw");
    fs::write(
        HostMount::new(&world, "disk.raw", "rw").path.join("new"),
        "new",
    )
    .expect("written");
    world.backup("disk.raw");
    for folder in ["out", "cache"] {
        fs::create_dir_all(world.path(folder)).expect("made");
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(world.path(folder), mode).expect("it is root's");
    }
    let root = world.path(".");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("it is root's");
    // Those who read have no cache of root's.
    world.cache = "cache/readers";
    world
}

fn each(check: fn(&World, Way)) {
    for world in [World::new(), World::encrypted()] {
        let world = open_to_readers(world);
        for way in [ReadOnly, Denied] {
            // What was stored meanwhile is its owner's.
            world.tool("chmod", &["-R", "a+rX", "repository"]);
            check(&world, way);
            drop(fs::remove_dir_all(world.path("cache/readers")));
        }
    }
}

#[test]
fn files_and_disks_are_read() {
    each(|world, way| {
        let listed = way.run(world, &["snapshots", "--json"]);
        assert_eq!(
            listed.document().as_array().map(Vec::len),
            Some(2),
            "{listed:?}"
        );
        assert!(listed.err.is_empty(), "no session is needed: {listed:?}");
        let first = listed.document()[0]["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        assert!(way.reads(world, &["ls", "web1:vda/"]).contains("new"));
        assert!(way.reads(world, &["find", "web1", "new"]).contains("new"));
        way.reads(world, &["get", "web1:vda/new", "got"]);
        assert_eq!(fs::read(world.path("out/got")).expect("it was got"), b"new");
        way.reads(
            world,
            &["restore", "web1", "--disk", "vda", "--to", "back.raw"],
        );
        world.assert_equal(("raw", "disk.raw"), ("raw", "out/back.raw"));
        assert!(!way.reads(world, &["diff", &first, "web1"]).is_empty());
        way.reads(world, &["stats"]);
        way.reads(world, &["stats", "--per", "snapshot"]);
        assert!(way.reads(world, &["verify"]).contains("no damage"));
        for left in ["out/got", "out/back.raw"] {
            fs::remove_file(world.path(left)).expect("it was made");
        }
        let left = fs::read_dir(world.repository().join("locks")).expect("there");
        assert_eq!(left.count(), 0);
    });
}

#[test]
fn disks_are_served() {
    each(|world, way| {
        let mut command = way.command(world, &["export", "web1", "--socket", "s"]);
        let served = Served::of(
            {
                command.stderr(fs::File::create(world.path("said")).expect("made"));
                command
            },
            1,
        );
        let uri = served.uris[0].clone();
        world.tool("nbdcopy", &[&uri, "read.raw"]);
        world.assert_equal(("raw", "disk.raw"), ("raw", "read.raw"));
        assert_eq!(served.end("-TERM"), Some(0));
        let said = fs::read_to_string(world.path("said")).expect("it was written");
        assert_eq!(said.matches(way.says()).count(), 1, "{said}");
    });
}

#[test]
fn what_is_mounted_read_only_can_be_mounted_from() {
    let world = open_to_readers(World::new());
    fs::create_dir(world.path("out/at")).expect("made");
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"; \
                  \"$@\" mount web1 at --background; cat at/vda/new; \"$@\" umount at";
    let plain = world.command::<&str>([]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", script]);
    command.arg(world.repository()).arg(plain.get_program());
    command.envs(
        plain
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let ran = Ran::of(command.current_dir(world.path("out")));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("new"), "{ran:?}");
    assert!(ran.err.contains(ReadOnly.says()), "{ran:?}");
}

#[test]
fn writers_are_refused_in_clear_words() {
    each(|world, way| {
        let hint = match way {
            ReadOnly => "mount it writable",
            Denied => "the right to write",
        };
        let backup = ["backup", "web1", "--disk", "vda=../disk.raw"];
        for args in [
            &backup[..],
            &["forget", "web1", "--yes"],
            &["protect", "web1"],
            &["gc"],
            &["repair"],
            &["prune", "--keep-last", "1"],
        ] {
            let ran = way.run(world, args);
            assert_eq!(ran.code, 1, "{args:?}: {ran:?}");
            let said = format!("nothing can be written to {}", text(&world.repository()));
            assert!(
                ran.err.contains(&said) && ran.err.contains(hint),
                "{args:?}: {ran:?}"
            );
        }
        world.ok(["verify"]);
    });
}

/// The user's own folder may be on the same file system.
#[test]
fn nothing_at_all_need_be_writable_but_the_place_for_temporary_files() {
    let world = open_to_readers(World::new());
    let mut command = ReadOnly.command(&world, &["ls", "web1:vda/"]);
    command.env("XDG_CACHE_HOME", world.repository().join("cache"));
    let temp = world.path("temp");
    fs::create_dir(&temp).expect("made");
    let ran = Ran::of(command.env("TMPDIR", &temp));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("new"), "{ran:?}");
    assert_eq!(
        fs::read_dir(&temp).expect("there").count(),
        0,
        "nothing is left there"
    );
    let mut command = ReadOnly.command(&world, &["ls", "web1:vda/"]);
    command.env("XDG_CACHE_HOME", world.repository().join("cache"));
    let ran = Ran::of(command.env("TMPDIR", world.repository()));
    ran.refused(1, "cannot make");
    assert!(ran.err.contains("XDG_CACHE_HOME"), "{ran:?}");
}
