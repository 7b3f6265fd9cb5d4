//! Lengths: of lines, functions and files.

use crate::assert_clean;
use crate::tree::{TextFile, rust_files, text_files};

const LINE_LEN_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;
/// `lib.rs` and `mod.rs` list and re-export; what does work has a file of its own.
const MODULE_FILE_LINES_MAX: usize = 150;
/// Beyond this, tests go to a sibling `tests.rs`.
const INLINE_TESTS_LINES_MAX: usize = 250;

fn long_lines(file: &TextFile) -> Vec<String> {
    let numbered = file.text.lines().enumerate();
    // A long link or a long literal cannot be broken, and rustfmt leaves it alone.
    let unbreakable = |line: &str| line.contains("https://") || line.contains("http://");
    numbered
        .filter(|(_, line)| line.chars().count() > LINE_LEN_MAX && !unbreakable(line))
        .map(|(index, _)| format!("{}:{}: over {LINE_LEN_MAX} columns", file.path, index + 1))
        .collect()
}

/// Relies on rustfmt: a function ends at the first brace in its own column.
fn long_functions(file: &TextFile) -> Vec<String> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut faults = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = function_name(code) else {
            continue;
        };
        let indent = &line[..line.len() - code.len()];
        let end = format!("{indent}}}");
        let body = lines[index..]
            .iter()
            .take_while(|line| **line != end && !ends_at_once(line));
        let length = body.count() + 1;
        if length > FUNCTION_LINES_MAX {
            let path = &file.path;
            faults.push(format!("{path}:{}: `{name}` has {length} lines", index + 1));
        }
    }
    faults
}

/// A declaration without a body, or a body on the same line.
fn ends_at_once(line: &str) -> bool {
    function_name(line.trim_start()).is_some() && (line.ends_with(';') || line.ends_with('}'))
}

fn function_name(code: &str) -> Option<&str> {
    let mut words = code.split_whitespace();
    let before = |word: &&str| {
        ["const", "async", "unsafe", "extern", "\"C\"", "pub"].contains(word)
            || word.starts_with("pub(")
            || *word == "crate)"
    };
    let first = words.find(|word| !before(word))?;
    let name = (first == "fn").then(|| words.next()).flatten()?;
    Some(name.split(['(', '<']).next().unwrap_or(name))
}

fn long_file(file: &TextFile) -> Option<String> {
    let (product, tests) = file.split_tests();
    let is_module_file = file.path.ends_with("/mod.rs") || file.path.ends_with("/lib.rs");
    let limit = match file.is_product() && is_module_file {
        true => MODULE_FILE_LINES_MAX,
        false => FILE_LINES_MAX,
    };
    let path = &file.path;
    if product.len() > limit {
        return Some(format!("{path}: {} lines, at most {limit}", product.len()));
    }
    let long = tests.len() > INLINE_TESTS_LINES_MAX;
    long.then(|| {
        format!(
            "{path}: {} lines of inline tests: move them to tests.rs",
            tests.len()
        )
    })
}

#[test]
fn lines_are_short() {
    let mut files = text_files();
    files.retain(|file| file.path.ends_with(".rs") || file.path.starts_with("tests/lab/"));
    assert_clean(&files.iter().flat_map(long_lines).collect::<Vec<_>>());
    let sample = TextFile::sample(
        "a.rs",
        &format!("{}\n{}\n", "é".repeat(100), "x".repeat(101)),
    );
    assert_eq!(long_lines(&sample), ["a.rs:2: over 100 columns"]);
}

#[test]
fn functions_are_short() {
    assert_clean(
        &rust_files()
            .iter()
            .flat_map(long_functions)
            .collect::<Vec<_>>(),
    );
    let body = "        work();\n".repeat(69);
    let short = "    fn short() { work() }\n    fn declared();\n";
    let text = format!("{short}    pub(crate) const fn long<T>(\n{body}    }}\n");
    let sample = TextFile::sample("a.rs", &text);
    assert_eq!(long_functions(&sample), ["a.rs:3: `long` has 71 lines"]);
}

#[test]
fn files_are_short() {
    assert_clean(
        &rust_files()
            .iter()
            .filter_map(long_file)
            .collect::<Vec<_>>(),
    );
    let lines = |count: usize| "x\n".repeat(count);
    let fault = |path: &str, text: &str| long_file(&TextFile::sample(path, text));
    assert!(fault("engine/src/a.rs", &lines(601)).is_some());
    assert!(fault("engine/src/a.rs", &lines(600)).is_none());
    assert!(fault("engine/src/a/mod.rs", &lines(151)).is_some());
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}", lines(249));
    assert!(fault("engine/src/a.rs", &tests).is_some());
}
