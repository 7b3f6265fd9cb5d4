//! A client that knows a place as an encrypted repository's does not believe that it is none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::crypto::{Keys, Passphrase};
use cairn_engine::format::config::Config;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{OpenOptions, Repository, RepositoryError};
use cairn_engine::storage::{Folder, SharedStorage};
use cairn_engine::verify::{StoredOptions, VerifyError, verify_stored};
use jiff::Timestamp;

use crate::qemu::{run, text};
use crate::support::{MemorySource, TestRepository};

/// Returns all files below a folder with their bytes.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        match path.is_dir() {
            true => found.extend(tree(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).expect("readable"))),
        }
    }
    found
}

/// Opens without a passphrase, which must not be asked for.
fn open(path: &Path, options: &OpenOptions) -> Result<Arc<Repository>, RepositoryError> {
    let storage: SharedStorage = Arc::new(Folder::open_at(path).expect("the folder is there"));
    Repository::open(storage, options, false, || panic!("nothing is to be asked"))
}

/// Returns the `config` of the same repository as one without encryption would have it.
fn plain(config: &[u8]) -> Vec<u8> {
    let mut plain = Config::decode(config).expect("it is whole");
    plain.encryption = None;
    let keys = Keys::plain(plain.repository_id);
    let stored = plain.encode(|bytes| keys.config_mac(bytes));
    stored.expect("it keeps the rules")
}

#[test]
fn what_was_encrypted_is_not_opened_in_the_clear() {
    let world = TestRepository::encrypted();
    let source = MemorySource::new(vec![7; 100_000]);
    world.backup(source, None).expect("backs up");
    let (path, options) = (world.path().join("config"), world.options());
    let config = fs::read(&path).expect("readable");
    fs::write(&path, plain(&config)).expect("writable");
    let before = tree(world.folder.path());

    let is_refused = |refused: Option<RepositoryError>| {
        let refused = refused.expect("it was encrypted");
        let proof = match &refused {
            RepositoryError::Downgraded { proof, .. } => proof.clone(),
            other => panic!("{other:?}"),
        };
        assert!(refused.is_damage());
        assert_eq!(fs::read(&proof).expect("it is kept"), config);
        assert!(
            refused.to_string().contains(&proof.display().to_string()),
            "{refused}"
        );
    };
    is_refused(open(&world.path(), &options).err());
    is_refused(world.try_open().err());
    let storage: SharedStorage = Arc::new(Folder::open_at(&world.path()).expect("opens"));
    let stored = StoredOptions {
        max_duration: None,
        now: Timestamp::now(),
        threads: 1,
        progress: &Progress::default(),
        cancel: &Cancel::default(),
    };
    match verify_stored(&storage, &options, &stored) {
        Err(VerifyError::Repository(error)) => is_refused(Some(error)),
        other => panic!("{:?}", other.err()),
    }
    assert!(
        tree(world.folder.path()) == before,
        "nothing is stored or forgotten"
    );

    // Whoever never saw it cannot know.
    let stranger = OpenOptions {
        cache: world.folder.path().join("another"),
        ..options.clone()
    };
    assert!(open(&world.path(), &stranger).is_ok());
    let passphrase = || Ok::<_, RepositoryError>(Passphrase::new(b"correct horse".to_vec()));
    let back = Repository::put_back(&storage, &options, passphrase).expect("the copy is whole");
    assert!(back.config);
    assert_eq!(fs::read(&path).expect("it is back"), config);
    world.try_open().expect("all is as it was");
}

/// Whoever can make a link of the folder leads nobody to a place that was never seen.
#[test]
fn a_link_to_another_place_makes_nothing_forgotten() {
    let world = TestRepository::encrypted();
    drop(world.try_open().expect("it opens"));
    let moved = world.folder.path().join("moved");
    let other = world.folder.path().join("other");
    run("mv", &[text(&world.path()), text(&moved)]);
    std::os::unix::fs::symlink(&moved, world.path()).expect("linked");
    drop(world.try_open().expect("it opens by the link"));

    let storage: SharedStorage = Arc::new(Folder::create_at(&other).expect("laid out"));
    let stranger = OpenOptions {
        local: Some(other.clone()),
        cache: world.folder.path().join("another"),
    };
    let made = Repository::init(storage, &crate::support::settings(), None, &stranger);
    drop(made.expect("made"));
    let known = world.options();
    fs::remove_file(world.path()).expect("removed");
    std::os::unix::fs::symlink(&other, world.path()).expect("linked");
    let refused = open(&world.path(), &known).err().expect("it was encrypted");
    assert!(
        matches!(refused, RepositoryError::Downgraded { .. }),
        "{refused:?}"
    );
    // By its own name nobody ever took it for another.
    let options = OpenOptions {
        local: Some(other.clone()),
        ..known
    };
    assert!(open(&other, &options).is_ok());
}

/// The user's own act, and not the storage's.
#[test]
fn one_that_is_made_anew_may_be_plain() {
    let world = TestRepository::encrypted();
    fs::remove_dir_all(world.path()).expect("removed");
    let storage: SharedStorage = Arc::new(Folder::create_at(&world.path()).expect("laid out"));
    let made = Repository::init(storage, &crate::support::settings(), None, &world.options());
    drop(made.expect("made"));
    assert!(open(&world.path(), &world.options()).is_ok());
}
