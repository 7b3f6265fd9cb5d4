//! Who may read what: repositories that a group shares, what is restored, and what a client keeps.
//! Needs root, to be others.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::world::{MIB, Ran, World, disk, edit};

/// A group, and a user who is in it.
const GROUP: u32 = 54_321;
const MEMBER: u32 = 54_322;

/// Runs the command as another user, in a folder and with a cache of his own.
fn run_as(world: &World, user: u32, group: u32, args: &[&str]) -> Ran {
    let plain = world.command(args);
    let home = world.path(&format!("home{user}"));
    if !home.exists() {
        fs::create_dir(&home).expect("made");
        chown(&home, Some(user), Some(user)).expect("root may");
        fs::copy(plain.get_program(), world.path("cairn")).expect("there is space");
    }
    let (user, group) = (user.to_string(), group.to_string());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &group, "--clear-groups"]);
    command
        .arg(world.path("cairn"))
        .args(args)
        .current_dir(&home);
    command.envs(
        plain
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    Ran::of(command.env("XDG_CACHE_HOME", home.join("cache")))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("root may");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

#[test]
fn a_group_works_with_a_repository_together() {
    let world = World::empty();
    set_mode(&world.path("."), 0o755);
    fs::create_dir(world.repository()).expect("made");
    chown(world.repository(), None, Some(GROUP)).expect("root may");
    world.ok(["init", "--shared", "group", "--parity", "5%"]);
    let mut bytes = disk(301, 3 * MIB);
    world.raw("a.raw", &bytes);
    let member = |args: &[&str]| {
        let ran = run_as(&world, MEMBER, GROUP, args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        assert!(ran.err.is_empty(), "{args:?}: {ran:?}");
        ran.out
    };
    let mut ids = Vec::new();
    for turn in 0..4 {
        edit(310 + turn, &mut bytes);
        world.raw("a.raw", &bytes);
        if turn % 2 == 0 {
            world.backup("a.raw");
        } else {
            let quiet = ["backup", "web1", "--disk", "vda=../a.raw", "-q"];
            member(&quiet);
        }
        let newest = world.json(["show", "web1"])["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        ids.push(newest);
    }
    member(&["restore", "web1", "--disk", "vda", "--to", "back.raw"]);
    let home = format!("home{MEMBER}");
    assert!(fs::read(world.path(&home).join("back.raw")).expect("restored") == bytes);
    assert!(world.restored("web1") == bytes);
    assert!(member(&["verify"]).contains("no damage"));
    // Each forgets what the other made, and gives its space back.
    member(&["forget", &ids[0], &ids[1], "-q"]);
    member(&["gc", "--grace", "0", "-q"]);
    world.ok(["forget", &ids[2]]);
    world.ok(["gc", "--grace", "0"]);
    assert!(world.ok(["verify"]).contains("no damage"));
    assert!(member(&["verify"]).contains("no damage"));
    assert!(world.restored("web1") == bytes);
}

#[test]
fn what_may_not_be_read_is_not_called_damaged() {
    let world = World::new();
    set_mode(&world.path("."), 0o755);
    world.raw("a.raw", &disk(302, 2 * MIB));
    world.backup("a.raw");
    world.ok(["protect", "web1"]);
    let repository = world.repository();
    let refused = |what: &str, commands: &[&[&str]]| {
        for args in commands {
            let ran = run_as(&world, MEMBER, MEMBER, args);
            let said = format!("{what}, {args:?}: {ran:?}");
            assert_eq!(ran.code, 1, "{said}");
            assert!(ran.err.contains("Permission denied"), "{said}");
            assert!(!ran.err.contains("damage"), "{said}");
            assert!(!ran.out.contains("damage"), "{said}");
        }
    };
    let restore: &[&str] = &["restore", "web1", "--disk", "vda", "--to", "b.raw"];
    let all: &[&[&str]] = &[
        &["snapshots"],
        restore,
        &["verify"],
        &["verify", "--stored"],
    ];
    refused("nothing at all", all);
    // Folders, but no file in them; then one kind of file after the other.
    world.tool(
        "sh",
        &["-c", "find repository -type d -exec chmod a+rx {} +"],
    );
    refused("folders", all);
    world.tool("chmod", &["a+r", "repository/config"]);
    refused("config", all);
    world.tool("chmod", &["-R", "a+r", "repository/notes"]);
    refused(
        "notes",
        &[
            &["snapshots"],
            restore,
            &["verify"],
            &["verify", "--stored"],
        ],
    );
    world.tool("chmod", &["-R", "a+r", "repository/snapshots"]);
    refused(
        "manifests",
        &[restore, &["verify"], &["verify", "--stored"]],
    );
    let packs = world.stored("packs");
    for pack in &packs {
        set_mode(pack, 0o644);
        let hidden = packs
            .iter()
            .find(|other| *other != pack)
            .expect("there are two");
        set_mode(hidden, 0o600);
        refused("a pack", &[restore, &["verify"], &["verify", "--stored"]]);
    }
    // Nor is it remembered as damaged.
    world.tool("chmod", &["-R", "a+rX", "repository"]);
    let ran = run_as(&world, MEMBER, MEMBER, &["verify"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("no damage"), "{ran:?}");
    assert_eq!(mode(&repository), 0o755);
}

#[test]
fn what_is_restored_and_remembered_is_its_owners() {
    for mut world in [World::new(), World::encrypted()] {
        world.cache = "new/cache";
        world.raw("a.raw", &disk(303, 2 * MIB));
        world.backup("a.raw");
        world.ok(["restore", "web1", "--to", "out/"]);
        world.ok(["restore", "web1", "--disk", "vda", "--to", "b.qcow2"]);
        world.ok(["verify"]);
        for (path, wanted) in [
            ("out", 0o700),
            ("out/vda.raw", 0o600),
            ("out/manifest.json", 0o600),
            ("b.qcow2", 0o600),
        ] {
            assert_eq!(mode(&world.path(path)), wanted, "{path}");
        }
        // One that is open to all does not stay so.
        set_mode(&world.path("out/manifest.json"), 0o644);
        world.ok(["restore", "web1", "--to", "out/", "--force"]);
        assert_eq!(mode(&world.path("out/manifest.json")), 0o600);
        // What RocksDB keeps has its own modes, in a folder that nobody else gets into.
        let open = "find new repository -path '*/db' -prune -o -perm /077 -print";
        assert_eq!(world.tool("sh", &["-c", open]), "");
    }
}
