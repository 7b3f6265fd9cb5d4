//! Whose the files of a repository are: their owner's, and their group's where the folder says so.
//! Needs root, to give folders to groups.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::repository::{OpenOptions, Repository, RepositoryError};
use cairn_engine::storage::{Folder, SharedStorage, StorageError};

use crate::support::{MemorySource, assert_clean, backup, restore, settings, verify_all};

/// A group that no test machine gives a meaning to.
const GROUP: u32 = 54_321;

/// Returns everything below a folder.
fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        found.push(path.clone());
        if path.is_dir() {
            below(&path, found);
        }
    }
}

/// Makes a repository with one backup in a folder that was there with this mode, and fails unless
/// all in it has the modes said, and the group where it is shared.
fn check(root: u32, file: u32, folder: u32) {
    let temp = tempfile::tempdir().expect("a temporary folder can be made");
    let path = temp.path().join("repository");
    fs::create_dir(&path).expect("the name is free");
    chown(&path, None, Some(GROUP)).expect("root may");
    fs::set_permissions(&path, Permissions::from_mode(root)).expect("root may");
    let storage: SharedStorage = Arc::new(Folder::create_at(&path).expect("laid out"));
    let options = OpenOptions {
        local: Some(path.clone()),
        cache: temp.path().join("cache"),
    };
    let mut settings = settings();
    settings.parity_percent = Some(5);
    let made = Repository::init(storage, &settings, None, &options);
    let repository = made.expect("the repository can be made");
    let source = MemorySource::new((0..200_000_u32).flat_map(u32::to_le_bytes).collect());
    let bytes = source.bytes.clone();
    let done = backup(&repository, source, None, &Default::default()).expect("backs up");
    repository
        .forget(&[done.snapshot])
        .expect("it is not protected");
    assert_clean(&verify_all(&repository));
    assert!(restore(&repository, done.snapshot, temp.path()).expect("restores") == *bytes);

    let is_shared = file != 0o600;
    assert_eq!(
        repository.index_folder().starts_with(&path),
        !is_shared,
        "{root:o}"
    );
    let mut found = Vec::new();
    below(&path, &mut found);
    for kind in ["packs", "parity", "snapshots", "notes"] {
        let in_it = |path: &PathBuf| {
            path.is_file() && path.components().any(|part| part.as_os_str() == kind)
        };
        assert!(found.iter().any(in_it), "{kind}");
    }
    for object in found
        .iter()
        .filter(|found| !found.starts_with(path.join("index")))
    {
        let meta = fs::metadata(object).expect("it is there");
        let wanted = if meta.is_dir() { folder } else { file };
        assert_eq!(
            meta.mode() & 0o7777,
            wanted,
            "{root:o}: {}",
            object.display()
        );
        assert!(!is_shared || meta.gid() == GROUP, "{}", object.display());
    }
    let kept = fs::metadata(&path).expect("it is there").mode() & 0o7777;
    assert_eq!(kept, root, "the folder itself is left alone");
}

#[test]
fn a_folder_that_is_not_shared_is_its_owners_whatever_its_mode() {
    for root in [0o700, 0o755, 0o775, 0o777] {
        check(root, 0o600, 0o700);
    }
    // Inherited from the folder above, and for nobody.
    check(0o2700, 0o600, 0o2700);
}

#[test]
fn what_is_in_a_shared_folder_is_its_groups() {
    check(0o2770, 0o660, 0o2770);
    check(0o2750, 0o640, 0o2750);
    // Never everybody's.
    check(0o2777, 0o660, 0o2770);
}

#[test]
fn sharing_makes_the_folder_setgid_and_touches_none_that_is_not_empty() {
    let temp = tempfile::tempdir().expect("a temporary folder can be made");
    let path = temp.path().join("new");
    drop(Folder::create_shared_at(&path).expect("laid out"));
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o7777;
    assert_eq!(mode(&path), 0o2770);
    assert_eq!(mode(&path.join("packs")), 0o2770);
    // As one that was interrupted left it.
    fs::set_permissions(path.join("packs"), Permissions::from_mode(0o700)).expect("its owner may");
    drop(Folder::create_shared_at(&path).expect("laid out"));
    assert_eq!(mode(&path.join("packs")), 0o2770);

    let other = temp.path().join("other");
    fs::create_dir(&other).expect("the name is free");
    fs::set_permissions(&other, Permissions::from_mode(0o700)).expect("its owner may");
    fs::write(other.join("file"), b"x").expect("there is space");
    let refused = Folder::create_shared_at(&other).err();
    assert!(
        matches!(refused, Some(StorageError::NotEmpty { .. })),
        "{refused:?}"
    );
    assert_eq!(mode(&other), 0o700);
}

#[test]
fn a_lack_of_rights_says_nothing_of_what_is_stored() {
    let errno = rustix::io::Errno::ACCESS;
    let error = RepositoryError::from(StorageError::Io {
        op: "open",
        object: "packs/00".to_owned(),
        source: errno.into(),
    });
    assert!(error.is_shortage() && !error.is_damage());
}
