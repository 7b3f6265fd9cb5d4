//! The files of the project, as the checks see them.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the project.
pub struct TextFile {
    /// Path below the root, with `/` between folders.
    pub path: String,
    /// What it holds.
    pub text: String,
}

/// Returns the folder that holds the workspace.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("the package lies in the workspace")
        .to_owned()
}

/// Returns every text file, in the order of their paths; what is built or fetched is left out.
pub fn text_files() -> Vec<TextFile> {
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = String::from_utf8(fs::read(&path).expect("project files can be read")).ok()?;
        let path = path
            .strip_prefix(root())
            .expect("the walk began there")
            .to_owned();
        let path = path
            .to_str()
            .expect("names of project files are UTF-8")
            .to_owned();
        Some(TextFile { path, text })
    };
    paths.into_iter().filter_map(read).collect()
}

/// Returns every Rust file.
pub fn rust_files() -> Vec<TextFile> {
    let mut files = text_files();
    files.retain(|file| file.path.ends_with(".rs"));
    files
}

/// What is built, fetched or found, and not part of the project.
const LEFT_OUT: [&str; 5] = [
    ".git",
    "target",
    "fuzz/target",
    "fuzz/corpus",
    "fuzz/artifacts",
];

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("project folders can be listed") {
        let entry = entry.expect("project folders can be listed");
        let path = entry.path();
        if LEFT_OUT
            .iter()
            .any(|left_out| path == root().join(left_out))
        {
            continue;
        }
        if entry.file_type().expect("entries have a type").is_dir() {
            walk(&path, paths);
        } else {
            paths.push(path);
        }
    }
}

impl TextFile {
    /// Makes a file for a check to be tried on.
    pub fn sample(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// Returns whether the file is part of the product: not a test, a bench or a fuzz target.
    pub fn is_product(&self) -> bool {
        self.path.contains("/src/") && !self.is_unit_tests()
    }

    /// Returns whether the file holds unit tests alone.
    pub fn is_unit_tests(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }

    /// Returns the lines up to the inline test module, and the lines of that module.
    pub fn split_tests(&self) -> (Vec<&str>, Vec<&str>) {
        let lines: Vec<&str> = self.text.lines().collect();
        let begins_tests = |pair: &[&str]| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        };
        let end = lines
            .windows(2)
            .position(begins_tests)
            .unwrap_or(lines.len());
        let (product, tests) = lines.split_at(end);
        (product.to_vec(), tests.to_vec())
    }

    /// Returns the product's lines with their numbers, without comments and attributes of tests.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let (product, _) = self.split_tests();
        let numbered = product
            .into_iter()
            .enumerate()
            .map(|(index, line)| (index + 1, line));
        numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

#[test]
fn inline_tests_are_told_from_the_product() {
    let text = "fn a() {}\n// b\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
    let file = TextFile::sample("engine/src/a.rs", text);
    assert_eq!(file.split_tests().0, ["fn a() {}", "// b", ""]);
    assert_eq!(file.split_tests().1.len(), 4);
    assert_eq!(file.code_lines().count(), 2);
    let sibling = TextFile::sample("engine/src/a.rs", "fn a() {}\n#[cfg(test)]\nmod tests;\n");
    assert_eq!(sibling.split_tests().1.len(), 0);
}

#[test]
fn the_walk_finds_this_file() {
    assert!(
        rust_files()
            .iter()
            .any(|file| file.path == "tests/tidy/tree.rs")
    );
}
