//! What comes from outside reaches a terminal by one way, and children by another.

use crate::assert_clean;
use crate::tree::{TextFile, rust_files};

/// What writes to a stream of the process past `cli/src/output/terminal.rs`.
const STREAMS: &[&str] = &[
    "println!(",
    "print!(",
    "eprint!(",
    "dbg!(",
    "stdout()",
    "stderr()",
    "/dev/tty",
];

/// Where one of these is right, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "cli/src/output/terminal.rs",
        "stderr()",
        "the one way to standard error",
    ),
    (
        "cli/src/context.rs",
        "stdout()",
        "the one way to standard output, with what terminals are spared",
    ),
    (
        "cli/src/context.rs",
        "stderr()",
        "asked whether it is a terminal",
    ),
    ("cli/src/password.rs", "stderr()", "the same"),
    (
        "cli/src/ask.rs",
        "stderr()",
        "a question, with what terminals are spared",
    ),
    (
        "cli/src/exit/document.rs",
        "stdout()",
        "a JSON document, which has what is in a name",
    ),
    (
        "cli/src/output/progress.rs",
        "stderr()",
        "numbers and verbs of our own",
    ),
    (
        "cli/src/mount/background.rs",
        "stdout()",
        "what another process of ours printed, and the code that it ends with",
    ),
    (
        "cli/src/commands/completions.rs",
        "stdout()",
        "a script for a shell, of our own words",
    ),
    (
        "cli/src/commands/man.rs",
        "stdout()",
        "a manual page, of our own words",
    ),
    (
        "engine/src/domain/hook.rs",
        "stderr()",
        "what the user's own hooks print is the user's",
    ),
    (
        "cli/src/commands/get.rs",
        "stdout()",
        "the bytes of a file, as they are",
    ),
    (
        "cli/src/commands/guard.rs",
        "stdout()",
        "words for the process that started it",
    ),
];

/// The one file that begins programs.
const PROGRAMS: &str = "engine/src/child.rs";

/// Returns the places that write past what terminals are spared, with what they do it by.
fn streams(file: &TextFile) -> Vec<(usize, &'static str)> {
    if !file.is_product() || file.path.starts_with("fuzz/") {
        return Vec::new();
    }
    let lines = file.code_lines().filter_map(|(number, line)| {
        // What clap says of a command line goes where it asks to.
        let line = line.replace("use_stderr()", "");
        let word = STREAMS.iter().find(|word| line.contains(**word))?;
        Some((number, *word))
    });
    lines.collect()
}

/// Returns the places that begin a program which may be told the passphrase.
fn programs(file: &TextFile) -> Vec<String> {
    if file.path == PROGRAMS || !file.is_product() || file.path.starts_with("fuzz/") {
        return Vec::new();
    }
    let begins = |line: &str| line.contains("Command::new(") && !line.contains("clap::");
    let lines = file.code_lines().filter(|(_, line)| begins(line));
    let told = "use `child::program`, or `child::fellow` for Cairn itself";
    lines
        .map(|(number, _)| format!("{}:{number}: {told}", file.path))
        .collect()
}

#[test]
fn what_people_read_goes_one_way() {
    let is_excepted = |path: &str, word: &str| {
        let mut all = EXCEPTIONS.iter();
        all.any(|(file, excepted, _)| *file == path && *excepted == word)
    };
    let (mut faults, mut used) = (Vec::new(), Vec::new());
    for file in rust_files() {
        for (number, word) in streams(&file) {
            used.push((file.path.clone(), word));
            if !is_excepted(&file.path, word) {
                let path = &file.path;
                faults.push(format!("{path}:{number}: `{word}`: use `terminal::say`"));
            }
        }
    }
    for (path, word, _) in EXCEPTIONS {
        if !used.contains(&((*path).to_owned(), *word)) {
            faults.push(format!("{path}: `{word}` is excepted and not there"));
        }
    }
    assert_clean(&faults);
    let bad = "let a = io::stdout().lock();\neprintln!(\"{a}\");\n// println!(\"a\")\n";
    assert_eq!(streams(&TextFile::sample("cli/src/a.rs", bad)).len(), 2);
    assert_eq!(streams(&TextFile::sample("tests/cli/a.rs", bad)).len(), 0);
}

#[test]
fn programs_are_begun_in_one_place() {
    assert_clean(&rust_files().iter().flat_map(programs).collect::<Vec<_>>());
    let bad = "let a = std::process::Command::new(b);\n";
    for path in [
        "engine/src/domain/a.rs",
        "cli/src/a.rs",
        "nbd-export/src/a.rs",
    ] {
        assert_eq!(programs(&TextFile::sample(path, bad)).len(), 1);
    }
}
