//! `cairn completions`.

use crate::world::World;

#[test]
fn scripts_know_every_command() {
    let world = World::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = world.ok(["completions", shell]);
        for command in ["backup", "restore", "analyze"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    assert_eq!(world.run(["completions", "cmd"]).code, 2);
}

#[test]
fn a_shell_takes_the_script() {
    let world = World::empty();
    let script = world.ok(["completions", "bash"]);
    std::fs::write(world.path("cairn.bash"), script).expect("a file can be made");
    world.tool("bash", &["-n", "cairn.bash"]);
}
