//! Help: enough for a newcomer to work from. Commands are those that the help itself lists.

use std::collections::BTreeMap;

use crate::world::World;

/// The help of every command, by the words that lead to it; the program's own by none.
fn helps() -> BTreeMap<Vec<String>, String> {
    let world = World::empty();
    let mut helps = BTreeMap::new();
    let mut left = vec![Vec::new()];
    while let Some(path) = left.pop() {
        let mut args: Vec<String> = path.clone();
        args.push("--help".to_owned());
        let help = world.ok(&args);
        for name in subcommands(&help) {
            let below = path.iter().cloned().chain([name.to_owned()]);
            left.push(below.collect());
        }
        helps.insert(path, help);
    }
    helps
}

/// Reads the list of subcommands, without the one that prints help.
fn subcommands(help: &str) -> Vec<&str> {
    let (_, list) = help.split_once("\nCommands:\n").unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    // What goes on on a line of its own stands further in.
    let named = lines.filter_map(|line| line.strip_prefix("  ").filter(|l| !l.starts_with(' ')));
    let names = named.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").collect()
}

fn examples(help: &str) -> Option<&str> {
    help.split_once("Examples:\n").map(|(_, examples)| examples)
}

fn options(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split([' ', '\n', '`', '=']);
    let options = words.filter(|word| word.starts_with("--") && word.len() > 2);
    options.map(|option| option.trim_end_matches([',', '.', ';', ':']))
}

fn knows(help: &str, option: &str) -> bool {
    let before_examples = help.split("Examples:\n").next().unwrap_or(help);
    let mut lines = before_examples.lines().map(str::trim_start);
    lines.any(|line| line.starts_with('-') && options(line).any(|known| known == option))
}

#[test]
fn every_command_has_help_and_the_walk_finds_them_all() {
    let helps = helps();
    for path in [
        &["backup"][..],
        &["restore"],
        &["recover"],
        &["cancel"],
        &["instant", "abort"],
        &["key", "passwd"],
        &["completions"],
    ] {
        let path: Vec<String> = path.iter().map(|word| (*word).to_owned()).collect();
        assert!(helps.contains_key(&path), "{path:?}");
    }
    for (path, help) in &helps {
        assert!(help.contains("Usage: cairn"), "{path:?}: {help}");
        let long = help.lines().find(|line| line.chars().count() > 100);
        assert_eq!(long, None, "{path:?}");
        let told: Vec<&str> = help.lines().take(1).collect();
        assert!(told.iter().all(|line| line.len() > 10), "{path:?}: {help}");
    }
}

#[test]
fn every_command_has_an_example_that_its_parser_knows() {
    let helps = helps();
    for (path, help) in helps.iter().filter(|(path, _)| path.len() == 1) {
        let command = &path[0];
        let examples = examples(help).unwrap_or_else(|| panic!("{command} has none: {help}"));
        let usage = format!("  cairn {command}");
        let mut lines = examples.lines();
        assert!(lines.any(|line| line.starts_with(&usage)), "{help}");
        for line in examples.lines() {
            let Some(called) = called(&helps, line) else {
                continue;
            };
            // What follows `unit` is another command with its options.
            for option in options(line).filter(|_| command != "unit") {
                assert!(knows(called, option), "{command}: {option} in `{line}`");
            }
        }
        for option in options(&prose(examples)) {
            // It may be another command's.
            let is_known = helps.values().any(|help| knows(help, option));
            assert!(is_known, "{command}: {option} in {examples}");
        }
    }
}

/// Returns what is said beside the examples, without the lines of other programs.
fn prose(examples: &str) -> String {
    let lines = examples
        .lines()
        .filter(|line| !line.starts_with("  cairn "));
    let text = lines.collect::<Vec<_>>().join(" ");
    let parts = text.split('`').enumerate();
    let is_ours = |code: &str| code.starts_with("cairn") || code.starts_with('-');
    let ours = parts.filter(|(number, part)| number % 2 == 0 || is_ours(part));
    ours.map(|(_, part)| part).collect::<Vec<_>>().join(" ")
}

/// Returns the help of the command that an example calls.
fn called<'h>(helps: &'h BTreeMap<Vec<String>, String>, line: &str) -> Option<&'h String> {
    let words = line.strip_prefix("  cairn ")?.split_whitespace();
    let words: Vec<String> = words.map(str::to_owned).collect();
    let lengths = (1..=words.len()).rev();
    lengths
        .map(|length| &words[..length])
        .find_map(|path| helps.get(path))
}

#[test]
fn the_help_lists_commands_and_exit_codes_once() {
    let help = World::empty().ok(["--help"]);
    let commands = subcommands(&help);
    assert!(commands.len() > 25, "{commands:?}");
    for command in commands {
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
