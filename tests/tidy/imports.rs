//! Which module may import which: the engine's layers, and the crates that have one home.

use std::collections::{BTreeMap, BTreeSet};

use crate::assert_clean;
use crate::tree::{TextFile, rust_files};

/// The engine's layers from the ground up. A module imports its own layer and those before it, and
/// the modules of one layer must not import one another in a circle.
const LAYERS: &[&[&str]] = &[
    &[
        "cache",
        "child",
        "extent",
        "id",
        "image_lock",
        "limits",
        "own",
        "pool",
        "printable",
        "progress",
        "spill",
        "sys",
        "threads",
    ],
    &["chunker", "compress", "crypto", "format"],
    &["index", "storage"],
    &["pack"],
    &["recipe", "repository"],
];
/// What touches disks outside of a repository knows the first so many layers.
const OUTSIDE: &[&str] = &["nbd", "source", "target"];
const OUTSIDE_KNOWS_LAYERS: usize = 2;
/// Import everything above, but not one another.
const OPERATIONS: &[&str] = &[
    "analyze",
    "backup",
    "copy",
    "diff",
    "gc",
    "keys",
    "restore",
    "retention",
    "stats",
    "verify",
];
/// Stand above the operations, and put them together.
const ABOVE: &[&str] = &["domain", "repair"];
/// Crates with one home.
const HOMES: &[(&str, &str)] = &[
    ("rocksdb::", "engine/src/index/"),
    ("virt::", "engine/src/source/libvirt/"),
];

/// Returns the engine's module that a file belongs to; `lib.rs` belongs to none.
fn module(file: &TextFile) -> Option<&str> {
    let path = file
        .path
        .strip_prefix("engine/src/")
        .filter(|_| file.is_product())?;
    let first = path.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib").then_some(name)
}

/// Returns the engine's modules that a file's product part names by `crate::`.
fn imports(file: &TextFile) -> BTreeSet<String> {
    let code: Vec<&str> = file.code_lines().map(|(_, line)| line).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.extend(leading_word(rest)),
            Some(group) => found.extend(top_level_words(group)),
        }
    }
    found
}

fn leading_word(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// Returns the first word of each item of a `{…}` group.
fn top_level_words(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut items = vec![String::new()];
    for character in group.chars() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ => {}
        }
        items
            .last_mut()
            .expect("there is always one")
            .push(character);
    }
    items
        .iter()
        .filter_map(|item| leading_word(item.trim_start_matches([',', ' ', '\n'])))
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn may_import(importer: &str, imported: &str) -> bool {
    let outside = OUTSIDE.contains(&importer);
    match (layer(importer), layer(imported)) {
        _ if importer == imported => true,
        (Some(above), Some(below)) => below <= above,
        (None, Some(below)) => !outside || below < OUTSIDE_KNOWS_LAYERS,
        (Some(_), None) => false,
        // `image` and the operations stand above the rest; nobody imports an operation.
        (None, None) if ABOVE.contains(&importer) => true,
        (None, None) if ABOVE.contains(&imported) => false,
        (None, None) => {
            !OPERATIONS.contains(&imported) && (!outside || OUTSIDE.contains(&imported))
        }
    }
}

fn upward_imports(file: &TextFile) -> Vec<String> {
    let Some(importer) = module(file) else {
        return Vec::new();
    };
    let upward = imports(file)
        .into_iter()
        .filter(|imported| !may_import(importer, imported));
    upward
        .map(|imported| format!("{}: `{importer}` imports `{imported}`", file.path))
        .collect()
}

fn circles(files: &[TextFile]) -> Vec<String> {
    let mut edges: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        if let Some(importer) = module(file) {
            edges.entry(importer).or_default().extend(imports(file));
        }
    }
    // Modules that import nothing that is left cannot be part of a circle.
    loop {
        let left: BTreeSet<String> = edges.keys().map(|module| (*module).to_owned()).collect();
        let before = edges.len();
        edges.retain(|importer, imported| {
            imported
                .iter()
                .any(|module| module != importer && left.contains(module))
        });
        if edges.len() == before {
            break;
        }
    }
    edges
        .keys()
        .map(|module| format!("`{module}` imports itself by way of others"))
        .collect()
}

/// Returns whether a line names a crate: `libvirt::` is not `virt::`.
fn names(line: &str, name: &str) -> bool {
    let mut places = line.match_indices(name).map(|(place, _)| &line[..place]);
    places.any(|before| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn strangers(file: &TextFile) -> Vec<String> {
    if !file.is_product() {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (name, home) in HOMES {
        let named = file.code_lines().any(|(_, line)| names(line, name));
        if named && !file.path.starts_with(home) {
            faults.push(format!("{}: `{name}` belongs under {home} only", file.path));
        }
    }
    faults
}

#[test]
fn modules_import_downward_only() {
    let files = rust_files();
    assert_clean(&files.iter().flat_map(upward_imports).collect::<Vec<_>>());
    assert_clean(&circles(&files));
}

#[test]
fn crates_stay_in_their_homes() {
    assert_clean(&rust_files().iter().flat_map(strangers).collect::<Vec<_>>());
    let sample = TextFile::sample("engine/src/pack/a.rs", "use rocksdb::DB;\n");
    assert_eq!(strangers(&sample).len(), 1);
    let sample = TextFile::sample("engine/src/pack/a.rs", "use a::libvirt::B;\nuse virt::C;\n");
    assert_eq!(strangers(&sample).len(), 1);
    let sample = TextFile::sample("engine/src/pack/a.rs", "use a::libvirt::B;\n");
    assert_eq!(strangers(&sample).len(), 0);
}

#[test]
fn upward_imports_are_found() {
    let fault = |path: &str, text: &str| upward_imports(&TextFile::sample(path, text)).len();
    assert_eq!(
        fault("engine/src/format/pack.rs", "use crate::pack::Writer;\n"),
        1
    );
    assert_eq!(
        fault(
            "engine/src/pack/a.rs",
            "use crate::{id::{A, B}, recipe, storage};\n"
        ),
        1
    );
    assert_eq!(
        fault(
            "engine/src/source/raw.rs",
            "let a = crate::storage::open();\n"
        ),
        1
    );
    assert_eq!(fault("engine/src/restore.rs", "use crate::verify::A;\n"), 1);
    assert_eq!(
        fault(
            "engine/src/restore.rs",
            "use crate::{image, pack, source};\n"
        ),
        0
    );
    assert_eq!(
        fault(
            "engine/src/pack/a.rs",
            "//! [`crate::recipe`]\nuse crate::id::A;\n"
        ),
        0
    );
}

#[test]
fn circles_are_found() {
    let file = |path, text| TextFile::sample(path, text);
    let mut files = vec![
        file("engine/src/index/a.rs", "use crate::storage::A;\n"),
        file("engine/src/storage/a.rs", "use crate::id::A;\n"),
    ];
    assert_clean(&circles(&files));
    files.push(file("engine/src/storage/b.rs", "use crate::index::A;\n"));
    assert_eq!(circles(&files).len(), 2);
}
