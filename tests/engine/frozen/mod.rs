//! The frozen repositories of `tests/fixtures/`: the bytes of earlier versions are read as ever.
//! What the command makes of them, damage included, is tested in `tests/cli/frozen.rs`.

mod damage;
mod make;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::id::SnapshotId;
use cairn_engine::repository::{Access, Contents, Repository};
use cairn_engine::restore::restore_file;

use crate::support::sim::copy_tree;
use crate::support::{TestRepository, assert_clean, open_at, options_at, snapshot, verify_all};

const PASSPHRASE: &str = "correct horse battery staple";
const NVRAM: &[u8] = b"the variables of a firmware";

/// Returns the folder of a format's fixtures.
fn fixtures(format: u32) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().expect("the package lies in the workspace");
    root.join(format!("tests/fixtures/format-{format}"))
}

/// Opens a copy of a fixture in a test's folder.
fn opened(name: &str, passphrase: Option<&str>, folder: &Path) -> Arc<Repository> {
    let path = folder.join(name);
    copy_tree(&fixtures(1).join(name), &path);
    for missing in ["keys", "gc", "locks", "tmp"] {
        fs::create_dir_all(path.join(missing)).expect("folders can be made");
    }
    open_at(&path, &options_at(&path), passphrase).expect("it is opened")
}

/// Returns the snapshot that was made of a VM first, by the table.
fn first(name: &str) -> SnapshotId {
    let table = fs::read_to_string(fixtures(1).join("healthy.txt")).expect("there is a table");
    let mut ids = table.lines().filter_map(|line| {
        let (alias, rest) = line.split_once(" | ")?;
        (alias == format!("{name}/web1-1")).then(|| rest.split(" | ").next())?
    });
    let id = ids.next().expect("it is in the table");
    id.parse().expect("ids are in the table")
}

#[test]
fn files_beside_the_disks_of_format_1_are_read() {
    let folder = TestRepository::new().folder;
    for (name, passphrase) in [("plain", None), ("encrypted", Some(PASSPHRASE))] {
        let repository = opened(name, passphrase, folder.path());
        assert_clean(&verify_all(&repository));
        let snapshot = snapshot(&repository, first(name));
        let contents = Contents::open(&repository, Access::Read(vec![snapshot.id]), "test");
        let file = snapshot.manifest.files.first().expect("it has a file");
        let mut bytes = Vec::new();
        restore_file(&contents.expect("opens"), file, &mut bytes).expect("it is restored");
        assert_eq!((file.name.as_str(), bytes.as_slice()), ("nvram", NVRAM));
        assert!(snapshot.manifest.unknown.contains_key("later"));
    }
}
