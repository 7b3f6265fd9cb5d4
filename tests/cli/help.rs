//! Help: enough for a newcomer to work from.

use crate::world::World;

/// Commands, with those below them.
const COMMANDS: &[&str] = &[
    "init",
    "backup",
    "snapshots",
    "show",
    "restore",
    "export",
    "prove",
    "verify",
    "repair",
    "diff",
    "ls",
    "get",
    "find",
    "stats",
    "forget",
    "gc",
    "prune",
    "undelete",
    "protect",
    "unprotect",
    "key",
    "mount",
    "umount",
    "analyze",
    "completions",
];

#[test]
fn every_command_has_an_example_that_its_parser_knows() {
    let world = World::empty();
    for command in COMMANDS {
        let help = world.ok([*command, "--help"]);
        let (_, examples) = help
            .split_once("Examples:\n")
            .unwrap_or_else(|| panic!("{help}"));
        let usage = format!("  cairn {command}");
        assert!(
            examples.lines().any(|line| line.starts_with(&usage)),
            "{help}"
        );
        assert!(
            help.lines().all(|line| line.chars().count() <= 100),
            "{help}"
        );
        for option in examples
            .split([' ', '\n'])
            .filter(|word| word.starts_with("--"))
        {
            let option = option.trim_end_matches([',', '.', '`']);
            let known = help.lines().any(|line| line.trim_start().contains(option));
            assert!(known, "{command}: {option}");
        }
    }
}

#[test]
fn the_help_lists_commands_and_exit_codes_once() {
    let world = World::empty();
    let help = world.ok(["--help"]);
    for command in COMMANDS {
        let line = format!("\n  {command} ");
        assert_eq!(help.matches(&line).count(), 1, "{command}: {help}");
    }
    for code in [0, 1, 2, 3, 10, 11, 12, 13, 14, 130] {
        let line = format!("\n  {code} ");
        assert_eq!(help.matches(&line).count(), 1, "{code}: {help}");
    }
    assert_eq!(help.matches("Exit codes").count(), 1);
}

#[test]
fn the_help_of_backup_lists_every_source_option() {
    let help = World::empty().ok(["backup", "--help"]);
    for option in [
        "format=",
        "backing=allow",
        "backing-format=",
        "data-file=allow",
        "snapshot=",
        "bitmap=",
        "delta",
    ] {
        assert!(help.contains(&format!("\n  {option}")), "{option}: {help}");
    }
}

#[test]
fn no_command_and_an_unknown_one_are_usage() {
    let world = World::empty();
    assert_eq!(world.run::<&str>([]).code, 2);
    let unknown = world.run(["bakcup"]);
    unknown.refused(2, "backup");
    assert!(world.ok(["--version"]).starts_with("cairn "));
}
