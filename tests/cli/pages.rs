//! The pages for operators: what their blocks of shell say is run as it stands.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::world::{MIB, Ran, World};

/// Returns the blocks of a page that are shell to be run.
fn blocks(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(page);
    let text = fs::read_to_string(path).expect("the page is there");
    let parts = text.split("```sh\n").skip(1);
    let blocks = parts.map(|part| part.split("```").next().unwrap_or_default().to_owned());
    blocks.collect()
}

/// Runs a page's blocks one after the other, in one shell, and returns what they say. Its folders
/// are those of the test.
fn run(world: &World, page: &str) -> Ran {
    let home = world.path(".").display().to_string();
    let home = home.trim_end_matches("/.");
    let mut script = blocks(page).join("\n");
    assert!(script.contains("cairn "), "{page} has nothing to run");
    for folder in ["/backup/", "/vm/"] {
        script = script.replace(folder, &format!("{home}{folder}"));
    }
    let plain = world.command([""]);
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(world.path("."));
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let path = std::env::var_os("PATH").expect("there is a PATH");
    let path = format!("{}:{}", world.path("bin").display(), path.to_string_lossy());
    command.env("PATH", path);
    command.env("CAIRN_REPOSITORY", world.path("backup/repository"));
    Ran::of(&mut command)
}

/// A folder with the repository of which the pages speak, and a guest with files in it.
fn prepared() -> World {
    let world = World::empty();
    for folder in ["bin", "backup", "vm", "files/etc"] {
        fs::create_dir_all(world.path(folder)).expect("made");
    }
    symlink(env!("CARGO_BIN_EXE_cairn"), world.path("bin/cairn")).expect("made");
    fs::write(world.path("files/etc/hostname"), "web1\n").expect("made");
    let size = (16 * MIB).to_string();
    world.tool("truncate", &["-s", &size, "guest.raw"]);
    world.tool("mke2fs", &["-q", "-t", "ext4", "-d", "files", "guest.raw"]);
    world.ok(["-r", "backup/repository", "init"]);
    let backup = [
        "-r",
        "backup/repository",
        "backup",
        "web1",
        "--disk",
        "vda=guest.raw",
    ];
    world.ok(backup);
    world
}

#[test]
fn a_burnt_host_is_restored_by_the_page() {
    let world = prepared();
    let ran = run(&world, "recovery.md");
    assert_eq!(ran.code, 0, "{ran:?}");
    world.assert_equal(("raw", "guest.raw"), ("raw", "vm/restored/vda.raw"));
    let hostname = fs::read_to_string(world.path("vm/hostname")).expect("fetched");
    assert_eq!(hostname, "web1\n");
    assert!(ran.out.contains("no damage"), "{ran:?}");
}

#[test]
fn the_page_for_operators_works() {
    let world = prepared();
    let ran = run(&world, "operating.md");
    assert_eq!(ran.code, 0, "{ran:?}");
    for wanted in [
        "# cairn-backup.service",
        "# cairn-verify.timer",
        "# cairn-prune.timer",
        "cairn_newest_snapshot_age_seconds{vm=\"web1\"}",
    ] {
        assert!(ran.out.contains(wanted), "no `{wanted}`: {ran:?}");
    }
}
