//! Passphrases: several, changed, removed, wrong.

use std::sync::Arc;
use std::time::Instant;

use cairn_engine::crypto::Passphrase;
use cairn_engine::repository::{Repository, RepositoryError};

use crate::support::sim::small_settings;
use crate::support::waiting::PATIENCE;
use crate::support::{MemorySource, TestRepository, open_at};

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.into())
}

fn encrypted() -> TestRepository {
    TestRepository::with(Some("first"), |settings| *settings = small_settings())
}

fn open(repository: &TestRepository, text: &str) -> Result<Arc<Repository>, RepositoryError> {
    open_at(&repository.path(), &repository.options(), Some(text))
}

#[test]
fn a_wrong_passphrase_is_told_and_does_not_hang() {
    let repository = encrypted();
    let start = Instant::now();
    let refused = open(&repository, "other");
    assert!(matches!(refused, Err(RepositoryError::WrongPassphrase)));
    assert!(start.elapsed() < PATIENCE,);
    // It differs from its neighbours in all that a person may mistype.
    for text in ["", "First", "first ", "firs", "first\n"] {
        assert!(matches!(
            open(&repository, text),
            Err(RepositoryError::WrongPassphrase)
        ));
    }
}

#[test]
fn passphrases_are_added_listed_changed_and_removed() {
    let repository = encrypted();
    let bytes = vec![7; 100_000];
    let done = repository
        .backup(MemorySource::new(bytes.clone()), None)
        .expect("backs up");
    let opened = repository.open();
    let second = opened.add_key(&passphrase("first"), &passphrase("second"), "office");
    let second = second.expect("the key is added");
    let slots = opened.key_slots().expect("slots are listed");
    let labels: Vec<_> = slots.iter().map(|slot| slot.label.as_str()).collect();
    assert_eq!(slots.len(), 2, "{labels:?}");
    assert!(
        labels.contains(&"office") && labels.contains(&"init"),
        "{labels:?}"
    );
    for text in ["first", "second"] {
        open(&repository, text).expect("either opens it");
    }

    let refused = opened.add_key(&passphrase("wrong"), &passphrase("third"), "nobody");
    assert!(matches!(refused, Err(RepositoryError::WrongPassphrase)));
    let refused = opened.change_passphrase(&passphrase("wrong"), &passphrase("third"));
    assert!(matches!(refused, Err(RepositoryError::WrongPassphrase)));

    let changed = opened.change_passphrase(&passphrase("second"), &passphrase("third"));
    let third = changed.expect("the passphrase is changed");
    assert!(matches!(
        open(&repository, "second"),
        Err(RepositoryError::WrongPassphrase)
    ));
    open(&repository, "third").expect("the new one opens it");
    let gone = opened.remove_key(second);
    assert!(matches!(gone, Err(RepositoryError::NoSuchKey(id)) if id == second));

    let first = opened.key_slots().expect("slots are listed").into_iter();
    let first = first
        .map(|slot| slot.id)
        .find(|id| *id != third)
        .expect("there are two");
    opened.remove_key(first).expect("it is removed");
    assert!(matches!(
        open(&repository, "first"),
        Err(RepositoryError::WrongPassphrase)
    ));
    assert!(matches!(
        opened.remove_key(third),
        Err(RepositoryError::LastKey)
    ));
    let opened = open(&repository, "third").expect("the last one opens it");
    let snapshot = crate::support::snapshot(&opened, done.snapshot);
    let restored = crate::support::memory::restore_fresh(&opened, &snapshot);
    assert!(restored.expect("restores") == bytes);
}

#[test]
fn a_plain_repository_has_no_keys() {
    let repository = TestRepository::with(None, |settings| *settings = small_settings());
    let opened = repository.open();
    assert!(opened.key_slots().expect("slots are listed").is_empty());
    let refused = opened.add_key(&passphrase("a"), &passphrase("b"), "nobody");
    assert!(matches!(
        refused,
        Err(RepositoryError::NoKeySlots | RepositoryError::NotEncrypted)
    ));
}
