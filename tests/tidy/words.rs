//! Texts that must not stand where they stand.

use crate::assert_clean;
use crate::tree::{TextFile, rust_files, text_files};

/// A call that is banned in the product, where it is allowed all the same, and what to do instead.
struct Banned {
    text: &'static str,
    allowed_under: &'static [&'static str],
    instead: &'static str,
}

/// Names are cut in two so that this file passes its own check.
const BANNED: &[Banned] = &[
    Banned {
        text: concat!(".unw", "rap()"),
        allowed_under: &[],
        instead: "`?`, or expect(\"why it cannot fail\")",
    },
    Banned {
        text: concat!("todo", "!("),
        allowed_under: &[],
        instead: "write it, or leave it out",
    },
    Banned {
        text: concat!("unimplement", "ed!("),
        allowed_under: &[],
        instead: "write it, or leave it out",
    },
    Banned {
        text: concat!("db", "g!("),
        allowed_under: &[],
        instead: "nothing",
    },
    Banned {
        text: concat!("FIX", "ME"),
        allowed_under: &[],
        instead: "an issue",
    },
    Banned {
        text: "println!(",
        allowed_under: &["cli/src/"],
        instead: "return it: the command line prints",
    },
    Banned {
        text: "print!(",
        allowed_under: &["cli/src/"],
        instead: "return it: the command line prints",
    },
    Banned {
        text: "process::exit(",
        allowed_under: &["cli/src/"],
        instead: "return an error: the command line exits",
    },
    Banned {
        text: "fs::rename(",
        allowed_under: &["engine/src/storage/", "engine/src/target/"],
        instead: "Storage::put, or the target's finish",
    },
    Banned {
        text: "sync_all(",
        allowed_under: &["engine/src/storage/", "engine/src/target/"],
        instead: "Storage::put, which knows the order",
    },
    Banned {
        text: "env::var(",
        allowed_under: &["cli/src/"],
        instead: "an option that the command line fills",
    },
    Banned {
        text: "thread::sleep(",
        // The kernel has no lock of a file that is waited for with an end.
        allowed_under: &[
            "engine/src/index/lock.rs",
            "engine/src/storage/file_lock.rs",
        ],
        instead: "a channel or a state to wait for",
    },
];

fn banned_calls(file: &TextFile) -> Vec<String> {
    if !file.is_product() {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in file.code_lines() {
        let code = line.split(" // ").next().unwrap_or(line);
        for banned in BANNED.iter().filter(|banned| code.contains(banned.text)) {
            if !banned
                .allowed_under
                .iter()
                .any(|folder| file.path.starts_with(folder))
            {
                let (path, text, instead) = (&file.path, banned.text, banned.instead);
                faults.push(format!(
                    "{path}:{number}: `{text}` is banned; instead: {instead}"
                ));
            }
        }
    }
    faults
}

/// Finds a comparison whose answer nobody looks at, which a test would pass with any outcome.
fn dropped_matches(file: &TextFile) -> Vec<String> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut faults = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        if !code.starts_with(concat!("matches", "!(")) {
            continue;
        }
        // rustfmt puts the end of a longer one in the column of its beginning.
        let end = format!("{})", &line[..line.len() - code.len()]);
        let closes = code.matches('(').count() == code.matches(')').count();
        let last = match closes {
            true => Some(line),
            false => lines[index + 1..]
                .iter()
                .find(|line| line.starts_with(&end)),
        };
        if last.is_some_and(|line| line.ends_with(");")) {
            faults.push(format!(
                "{}:{}: the answer of matches! is dropped",
                file.path,
                index + 1
            ));
        }
    }
    faults
}

fn machine_paths(file: &TextFile) -> Vec<String> {
    const FOLDERS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let numbered = file.text.lines().enumerate();
    numbered
        .filter(|(_, line)| FOLDERS.iter().any(|folder| line.contains(folder)))
        .map(|(index, _)| format!("{}:{}: a path of one machine", file.path, index + 1))
        .collect()
}

#[test]
fn banned_calls_are_absent() {
    assert_clean(
        &rust_files()
            .iter()
            .flat_map(banned_calls)
            .collect::<Vec<_>>(),
    );
    let call = concat!(
        "    x.unw",
        "rap();\n    // x.unw",
        "rap()\n    println!(\"\");\n"
    );
    let lines = |path: &str| banned_calls(&TextFile::sample(path, call)).len();
    assert_eq!(lines("engine/src/a.rs"), 2);
    assert_eq!(lines("cli/src/a.rs"), 1);
    assert_eq!(lines("engine/src/a/tests.rs"), 0);
}

#[test]
fn no_answer_of_matches_is_dropped() {
    assert_clean(
        &rust_files()
            .iter()
            .flat_map(dropped_matches)
            .collect::<Vec<_>>(),
    );
    let call = concat!("matches", "!(");
    let bad = format!("    {call}x, A);\n    {call}\n        x,\n        A\n    );\n");
    assert_eq!(dropped_matches(&TextFile::sample("a.rs", &bad)).len(), 2);
    let good =
        format!("    assert!({call}x, A));\n    {call}x, A)\n    {call}\n        x\n    )\n");
    assert_clean(&dropped_matches(&TextFile::sample("a.rs", &good)));
}

#[test]
fn no_file_names_a_machine() {
    assert_clean(
        &text_files()
            .iter()
            .flat_map(machine_paths)
            .collect::<Vec<_>>(),
    );
    let sample = TextFile::sample("a.md", concat!("see /wo", "rk/x\n"));
    assert_eq!(machine_paths(&sample).len(), 1);
}
