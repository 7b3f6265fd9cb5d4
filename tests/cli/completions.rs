//! `cairn completions`: real shells load the scripts, and offer what there is.

use std::fs;
use std::process::Command;

use crate::world::{MIB, Ran, World, disk, text};

/// A folder with a VM that has files, and the program by its name.
fn prepared(mut world: World) -> World {
    for folder in ["bin", "files/etc/network"] {
        fs::create_dir_all(world.path(folder)).expect("made");
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cairn"), world.path("bin/cairn")).expect("made");
    fs::write(world.path("files/etc/hostname"), "web1\n").expect("made");
    world.tool("truncate", &["-s", "16M", "guest.raw"]);
    world.tool("mke2fs", &["-q", "-t", "ext4", "-d", "files", "guest.raw"]);
    world.ok(["backup", "web1", "--disk", "vda=guest.raw"]);
    world.raw("a.raw", &disk(480, MIB));
    world.ok(["backup", "database", "--disk", "vda=a.raw"]);
    world.cache = "cache";
    world
}

fn shell(world: &World, program: &str, args: &[&str]) -> Ran {
    let plain = world.command([""]);
    let mut command = Command::new(program);
    command.args(args).current_dir(world.path("."));
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let path = std::env::var_os("PATH").expect("there is a PATH");
    let path = format!("{}:{}", text(&world.path("bin")), path.to_string_lossy());
    Ran::of(command.env("PATH", path))
}

/// What bash offers for a line, as it would when somebody presses the key at its end.
const ASK: &str = r#"
source /usr/share/bash-completion/bash_completion
source <(cairn completions bash)
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9
# As readline divides it.
COMP_WORDS=() word=
for ((i = 0; i < ${#1}; i++)); do
    c=${1:i:1}
    case $c in
        ' ') [ -n "$word" ] && COMP_WORDS+=("$word"); word= ;;
        ["$COMP_WORDBREAKS"]) [ -n "$word" ] && COMP_WORDS+=("$word"); COMP_WORDS+=("$c"); word= ;;
        *) word+=$c ;;
    esac
done
COMP_WORDS+=("$word")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_cairn cairn "$word" ""
printf '%s\n' "${COMPREPLY[@]}"
"#;

fn offered(world: &World, line: &str) -> String {
    let ran = shell(world, "bash", &["-c", ASK, "bash", line]);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.out
}

#[test]
fn bash_offers_commands_vms_snapshots_and_paths() {
    for world in [World::new(), World::encrypted()] {
        let world = prepared(world);
        assert!(offered(&world, "cairn sna").contains("snapshots"));
        assert!(offered(&world, "cairn restore --def").contains("--define"));
        assert_eq!(offered(&world, "cairn show we").trim(), "web1");
        let both = offered(&world, "cairn snapshots ");
        assert!(both.contains("web1") && both.contains("database"), "{both}");
        assert!(offered(&world, "cairn restore web1@la").contains("latest"));
        let id = world.json(["show", "web1"])["id"].as_str().expect("an id")[..8].to_owned();
        assert!(offered(&world, "cairn forget web1@").contains(&id));
        assert!(offered(&world, "cairn ls web1:").contains("vda/"));
        let top = offered(&world, "cairn ls web1:vda/");
        assert!(top.contains("vda/etc/"), "{top}");
        let below = offered(&world, "cairn get web1:vda/etc/h");
        assert!(below.contains("vda/etc/hostname"), "{below}");
        assert!(!below.contains("network"), "{below}");
        assert_eq!(offered(&world, "cairn ls nobody:vda/").trim(), "");
    }
}

#[test]
fn nobody_is_asked_for_a_passphrase_while_typing() {
    let mut world = prepared(World::encrypted());
    world.passphrase = None;
    assert_eq!(offered(&world, "cairn show we").trim(), "");
}

#[test]
fn zsh_and_fish_load_their_scripts() {
    let world = prepared(World::new());
    for (name, check) in [
        ("zsh", "autoload -U compinit && compinit -u && "),
        ("fish", ""),
    ] {
        let script = world.ok(["completions", name]);
        fs::write(world.path("script"), &script).expect("made");
        let line = format!("{check}source ./script");
        let ran = shell(&world, name, &["-c", &line]);
        assert_eq!((ran.code, &*ran.err), (0, ""), "{name}: {ran:?}");
    }
    // fish tells what it would offer.
    let line = "source ./script; complete -C 'cairn show we'";
    let ran = shell(&world, "fish", &["-c", line]);
    assert!(ran.out.contains("web1"), "{ran:?}");
    for name in ["elvish", "powershell"] {
        let script = world.ok(["completions", name]);
        assert!(script.contains("restore"), "{name}");
    }
    assert_eq!(world.run(["completions", "cmd"]).code, 2);
}
