//! Where a passphrase may come from.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::world::{MIB, PASSPHRASE, Ran, World, disk};

/// Runs `snapshots` with one more variable, and none of the usual ones.
fn with(world: &World, name: &str, value: &str) -> Ran {
    let mut command = world.command(["snapshots"]);
    command.env_remove("CAIRN_PASSWORD").env(name, value);
    Ran::of(&mut command)
}

fn written(world: &World, name: &str, mode: u32) -> String {
    let path = world.path(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(&path, format!("{PASSPHRASE}\n")).expect("there is space");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
    path.display().to_string()
}

#[test]
fn it_comes_from_a_file_a_command_or_systemd() {
    let world = World::encrypted();
    world.raw("a.raw", &disk(450, MIB));
    world.backup("a.raw");
    let file = written(&world, "secret", 0o600);
    written(&world, "credentials/cairn.password", 0o400);
    let folder = world.path("credentials").display().to_string();
    let print = format!("cat '{file}'");
    for (name, value) in [
        ("CAIRN_PASSWORD", PASSPHRASE),
        ("CAIRN_PASSWORD_FILE", &file),
        ("CAIRN_PASSWORD_COMMAND", &print),
        ("CREDENTIALS_DIRECTORY", &folder),
    ] {
        let ran = with(&world, name, value);
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
        assert_eq!(ran.err, "", "{name}");
        assert!(ran.out.contains("web1"), "{name}: {ran:?}");
    }
    let none = with(&world, "CREDENTIALS_DIRECTORY", "/nonexistent");
    none.refused(2, "a passphrase is needed");
    assert!(none.err.contains("CAIRN_PASSWORD_COMMAND"), "{none:?}");
    with(&world, "CAIRN_PASSWORD_COMMAND", "echo wrong").refused(14, "wrong passphrase");
    with(&world, "CAIRN_PASSWORD_COMMAND", "echo right; exit 3").refused(1, "exit status: 3");
    with(&world, "CAIRN_PASSWORD_COMMAND", "true").refused(2, "empty");
    let endless = with(&world, "CAIRN_PASSWORD_COMMAND", "yes | tr -d '\\n'");
    assert_ne!(endless.code, 0, "{endless:?}");
}

#[test]
fn what_others_may_read_and_what_is_short_is_warned_about() {
    let world = World::encrypted();
    let open = written(&world, "open", 0o644);
    let ran = with(&world, "CAIRN_PASSWORD_FILE", &open);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("chmod 600"), "{ran:?}");

    fs::write(world.path("short"), "tiny").expect("there is space");
    fs::set_permissions(world.path("short"), Permissions::from_mode(0o600)).expect("ours");
    let ran = world.run(["key", "add", "--new-password-file", "short"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("4 characters"), "{ran:?}");
    let ran = world.run([
        "-r",
        "other",
        "init",
        "--encrypt",
        "--password-file",
        "short",
    ]);
    assert!(ran.err.contains("can guess"), "{ran:?}");
}
