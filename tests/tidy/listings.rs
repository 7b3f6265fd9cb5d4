//! Names that must lead somewhere: test modules, links of the documents, entries of the top folder.

use std::collections::BTreeSet;
use std::fs;

use crate::assert_clean;
use crate::tree::{TextFile, root, rust_files, text_files};

/// Entries of the top folder beside hidden ones.
const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "cli",
    "docs",
    "engine",
    "fuzz",
    "nbd-export",
    "target",
    "tests",
];

/// Finds files of `tests/<folder>/` that their `main.rs` (or `mod.rs`, or `tests/<folder>.rs`) does
/// not name: such a file compiles never and passes always.
fn forgotten_tests(files: &[TextFile]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        let Some((folder, name)) = file
            .path
            .strip_suffix(".rs")
            .and_then(|p| p.rsplit_once('/'))
        else {
            continue;
        };
        if !folder.starts_with("tests/") || ["main", "mod"].contains(&name) {
            continue;
        }
        let lists = ["/main.rs", "/mod.rs", ".rs"].map(|end| format!("{folder}{end}"));
        let named = |list: &&TextFile| {
            lists.contains(&list.path)
                && list.text.lines().any(|line| {
                    let line = line
                        .trim_start_matches("pub ")
                        .trim_start_matches("pub(crate) ");
                    line == format!("mod {name};")
                })
        };
        if files.iter().find(named).is_none() {
            faults.push(format!("{}: no `mod {name};` leads to it", file.path));
        }
    }
    faults
}

/// Returns the targets of a document's links, without those that lead out of the project.
fn links(text: &str) -> Vec<&str> {
    let ends = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    ends.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// Returns the anchors that a document's headings have.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

fn dead_links(file: &TextFile, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut faults = Vec::new();
    for target in links(&file.text) {
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        let path = if path.is_empty() {
            file.path.clone()
        } else {
            join(folder, path)
        };
        let found =
            read(&path).is_some_and(|text| anchor.is_empty() || anchors(&text).contains(anchor));
        if !found {
            faults.push(format!("{}: `{target}` leads nowhere", file.path));
        }
    }
    faults
}

fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Finds documents that code and scripts name in passing and that are not there.
fn dead_mentions(file: &TextFile, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut faults = BTreeSet::new();
    for rest in file.text.split("`docs/").skip(1) {
        let name = rest.split(['`', '#', '\n']).next().unwrap_or_default();
        let path = format!("docs/{name}");
        if name.ends_with(".md") && !exists(&path) {
            faults.insert(format!("{}: `{path}` is not there", file.path));
        }
    }
    faults.into_iter().collect()
}

#[test]
fn every_test_file_is_compiled() {
    assert_clean(&forgotten_tests(&rust_files()));
    let file = |path, text| TextFile::sample(path, text);
    let mut files = vec![
        file("tests/cli/main.rs", "mod init;\n"),
        file("tests/cli/init.rs", ""),
        file("tests/tidy.rs", ""),
    ];
    assert_clean(&forgotten_tests(&files));
    files.push(file("tests/cli/backup.rs", ""));
    assert_eq!(
        forgotten_tests(&files),
        ["tests/cli/backup.rs: no `mod backup;` leads to it"]
    );
}

#[test]
fn every_link_leads_somewhere() {
    let read = |path: &str| {
        let path = root().join(path);
        let folder = path.is_dir().then(String::new);
        folder.or_else(|| {
            fs::read(path)
                .ok()
                .map(|b| String::from_utf8_lossy(&b).into_owned())
        })
    };
    let files = text_files();
    let documents = files.iter().filter(|file| file.path.ends_with(".md"));
    assert_clean(
        &documents
            .flat_map(|file| dead_links(file, read))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn every_document_named_in_code_is_there() {
    let files = text_files();
    let sources = files
        .iter()
        .filter(|file| !file.path.starts_with("tests/tidy"));
    let exists = |path: &str| root().join(path).is_file();
    assert_clean(
        &sources
            .flat_map(|file| dead_mentions(file, exists))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn dead_links_are_found() {
    let read = |path: &str| (path == "docs/a.md").then(|| "# The `x` y\n".to_owned());
    let text = "[a](a.md) [b](../docs/a.md#the-x-y) [c](https://c.d) [d](b.md) [e](a.md#z) [f](#q)";
    let file = TextFile::sample("docs/a.md", text);
    let dead = ["b.md", "a.md#z", "#q"].map(|link| format!("docs/a.md: `{link}` leads nowhere"));
    assert_eq!(dead_links(&file, read), dead);
    let mention = TextFile::sample("a.rs", "//! `docs/b.md` and `docs/a.md`\n");
    assert_eq!(dead_mentions(&mention, |path| path == "docs/a.md").len(), 1);
}

#[test]
fn the_top_folder_holds_what_it_should() {
    let names = fs::read_dir(root())
        .expect("the top folder can be listed")
        .map(|entry| {
            let name = entry.expect("the top folder can be listed").file_name();
            name.into_string()
                .expect("names of project files are UTF-8")
        });
    let strange = |name: &String| !name.starts_with('.') && !TOP.contains(&name.as_str());
    let faults: Vec<String> = names.filter(strange).collect();
    assert_clean(&faults);
}
