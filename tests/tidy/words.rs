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
        text: concat!("thread::", "sleep("),
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

/// What makes a test count on the machine: how a line does it, the comment that says why it may,
/// and what to do instead. Names are cut in two so that this file passes its own check.
const HURRIES: &[(&[&str], &str, &str)] = &[
    (
        &[concat!("thread::", "sleep(")],
        "// sleeps: ",
        "support/waiting.rs waits until something is so",
    ),
    (
        &[concat!(".elap", "sed()")],
        "// times: ",
        "count what was done, or compare with PATIENCE, which only a test that fails waits for",
    ),
    (
        &[
            concat!("\"lo", "op,"),
            concat!(",lo", "op"),
            concat!("\"lo", "op\""),
            concat!("\"lose", "tup\""),
        ],
        "// loop: ",
        "support/mounts.rs, which frees the device before it goes on",
    ),
];

/// Finds what passes on an idle machine only, or leaves to the kernel when to free a device.
fn hurries(file: &TextFile) -> Vec<String> {
    let is_helper = ["tests/support/waiting.rs", "tests/support/mounts.rs"];
    if file.is_product() || is_helper.contains(&&*file.path) || file.path.starts_with("benches/") {
        return Vec::new();
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let mut faults = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        for (texts, comment, instead) in HURRIES {
            // A comment may take several lines; it stands above the statement.
            let above = lines[..index].iter().rev();
            let mut above = above.take_while(|line| line.trim_start().starts_with("//"));
            let is_said = line.contains(comment) || above.any(|line| line.contains(comment));
            let is_long = line.contains("PATIENCE") && !line.contains("sleep");
            let text = texts.iter().find(|text| line.contains(**text));
            if let Some(text) = text
                && !is_said
                && !is_long
            {
                let (path, number) = (&file.path, index + 1);
                faults.push(format!(
                    "{path}:{number}: `{text}` without a line `{comment}why`; instead: {instead}"
                ));
            }
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

#[test]
fn no_test_counts_on_an_idle_machine() {
    assert_clean(&rust_files().iter().flat_map(hurries).collect::<Vec<_>>());
    let sleep = concat!("    thread::sl", "eep(A_WHILE);\n");
    let bad = [
        sleep.to_owned(),
        format!("    // Why?\n{sleep}"),
        concat!("    assert!(begun.elap", "sed() < LIMIT);\n").to_owned(),
        concat!("    tool(\"mount\", &[\"-o\", \"lo", "op,ro\"]);\n").to_owned(),
        concat!("    tool(\"mount\", &[\"-o\", \"lo", "op\"]);\n").to_owned(),
        concat!("    tool(\"mount\", &[\"-o\", \"ro,lo", "op\"]);\n").to_owned(),
        concat!("    tool(\"lose", "tup\", &[]);\n").to_owned(),
    ];
    for text in &bad {
        assert_eq!(
            hurries(&TextFile::sample("tests/a.rs", text)).len(),
            1,
            "{text}"
        );
        assert_clean(&hurries(&TextFile::sample("engine/src/a.rs", text)));
    }
    let good = [
        format!("    // sleeps: it is\n    // the subject.\n{sleep}"),
        concat!("    assert!(begun.elap", "sed() < PATIENCE);\n").to_owned(),
    ];
    for text in &good {
        assert_clean(&hurries(&TextFile::sample("tests/a.rs", text)));
    }
}
