//! Where nobody says where the home is, as under cron and systemd. Needs root, to be others.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;

use crate::world::{MIB, Ran, World, disk};

/// A user whom the system does not know.
const NOBODY: u32 = 54_325;

/// Runs the command as a user, with nothing in the environment but what is given.
fn run_as(world: &World, user: u32, environment: &[(&str, &str)], args: &[&str]) -> Ran {
    let plain = world.command(args);
    let program = world.path("cairn");
    if !program.exists() {
        fs::copy(plain.get_program(), &program).expect("there is space");
    }
    let user = user.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    command
        .arg(&program)
        .args(args)
        .current_dir(world.path("."));
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command.env("CAIRN_REPOSITORY", world.repository());
    Ran::of(command.envs(environment.iter().copied()))
}

#[test]
fn without_a_home_it_works_and_says_what_that_means() {
    let world = World::empty();
    world.raw("a.raw", &disk(430, MIB));
    for path in [".", "a.raw"] {
        chown(world.path(path), Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let temporary = world.path("tmp");
    fs::create_dir(&temporary).expect("made");
    chown(&temporary, Some(NOBODY), Some(NOBODY)).expect("root may");
    let at = temporary.to_string_lossy().into_owned();
    for args in [
        &["init"][..],
        &["backup", "web1", "--disk", "vda=a.raw"],
        &["backup", "web1", "--disk", "vda=a.raw"],
        &["verify"],
        &["restore", "web1", "--disk", "vda", "--to", "b.raw"],
    ] {
        let ran = run_as(&world, NOBODY, &[("TMPDIR", &at)], args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        assert!(ran.err.contains("XDG_CACHE_HOME"), "{args:?}: {ran:?}");
        let left = fs::read_dir(&temporary).expect("listed").count();
        assert_eq!(left, 0, "{args:?}");
    }
    world.assert_equal(("raw", "a.raw"), ("raw", "b.raw"));
}

#[test]
fn a_home_is_found_in_the_list_of_users_and_another_ones_is_left_alone() {
    let world = World::new();
    world.raw("a.raw", &disk(431, MIB));
    // Root without HOME has that of the list of users: nothing is warned about.
    let ran = run_as(&world, 0, &[], &["snapshots"]);
    assert_eq!((ran.code, &*ran.err), (0, ""), "{ran:?}");
    let home = world.path("home");
    fs::create_dir(&home).expect("made");
    chown(&home, Some(NOBODY), Some(NOBODY)).expect("root may");
    let at = home.to_string_lossy().into_owned();
    let ran = run_as(&world, 0, &[("HOME", &at)], &["snapshots"]);
    assert_eq!((ran.code, &*ran.err), (0, ""), "{ran:?}");
    assert!(
        !home.join(".cache").exists(),
        "root made a folder in another user's home"
    );
    // Of its own it makes use.
    chown(&home, Some(0), Some(0)).expect("root may");
    let ran = run_as(&world, 0, &[("HOME", &at)], &["snapshots"]);
    assert_eq!((ran.code, &*ran.err), (0, ""), "{ran:?}");
    let made = fs::metadata(home.join(".cache")).expect("made");
    assert_eq!((made.uid(), made.mode() & 0o777), (0, 0o700));
}
