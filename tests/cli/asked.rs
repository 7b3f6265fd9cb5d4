//! What people have regretted is asked before it is done. Terminals are real ones, by script(1).

use std::process::Command;

use crate::world::{MIB, Ran, World, disk};

/// Runs a command on a terminal of its own, and types a line.
fn on_terminal(world: &World, args: &[&str], typed: &str) -> Ran {
    let plain = world.command(args);
    let program = plain.get_program().to_string_lossy().into_owned();
    let line = format!("{program} {}", args.join(" "));
    let mut command = Command::new("sh");
    command.args(["-c", "printf '%s\\n' \"$1\" | script -qec \"$2\" /dev/null"]);
    command.args(["sh", typed, &line]);
    command.current_dir(world.path("."));
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Ran::of(&mut command)
}

fn count(world: &World) -> usize {
    world.json(["snapshots"]).as_array().map_or(0, Vec::len)
}

#[test]
fn a_bare_name_forgets_nothing_unasked() {
    let world = World::new();
    world.raw("a.raw", &disk(420, MIB));
    let ids: Vec<String> = (0..3)
        .map(|_| {
            world.backup("a.raw")["snapshot"]
                .as_str()
                .expect("an id")
                .to_owned()
        })
        .collect();
    for name in ["web1", "web1@latest"] {
        let ran = world.run(["forget", name]);
        ran.refused(2, "means the newest snapshot");
        assert!(ran.err.contains("--yes"), "{ran:?}");
        let ran = world.run(["forget", &ids[0], name]);
        ran.refused(2, name);
    }
    assert_eq!(count(&world), 3);
    let plan = world.json(["forget", "web1", "--dry-run"]);
    assert_eq!(plan["forgotten"][0]["is_newest"], true);
    assert_eq!(plan["forgotten"][0]["id"], *ids[2]);
    // Who names an id knows what goes.
    let done = world.json(["forget", &ids[0]]);
    assert_eq!(done["forgotten"][0]["is_newest"], false);
    world.ok(["forget", "web1", "--yes"]);
    assert_eq!(count(&world), 1);
}

#[test]
fn on_a_terminal_one_is_asked() {
    let world = World::new();
    world.raw("a.raw", &disk(421, MIB));
    world.backup("a.raw");
    for (typed, left, code) in [("n", 1, 130), ("", 1, 130), ("y", 0, 0)] {
        let ran = on_terminal(&world, &["forget", "web1"], typed);
        assert!(ran.out.contains("forget this snapshot? [y/N]"), "{ran:?}");
        assert!(ran.out.contains("the newest"), "{ran:?}");
        assert_eq!(ran.code, code, "{typed}: {ran:?}");
        assert_eq!(count(&world), left, "{typed}: {ran:?}");
    }
}
