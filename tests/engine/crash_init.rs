//! Power cuts while an encrypted repository is made: no config without its key.

use std::sync::Arc;

use cairn_engine::crypto::Passphrase;
use cairn_engine::repository::Repository;
use cairn_engine::storage::sim::SimFs;
use cairn_engine::storage::{Area, Folder, Name, SharedStorage, Storage};

use crate::support::seed;
use crate::support::sim::{options, scratch, small_settings};

#[test]
fn an_encrypted_repository_has_its_key_before_its_config() {
    let (disk, cache) = (SimFs::new(seed()), scratch());
    let storage: SharedStorage = Arc::new(Folder::create(disk.clone()).expect("laid out"));
    let passphrase = Passphrase::new(b"correct horse".to_vec());
    Repository::init(
        storage,
        &small_settings(),
        Some(&passphrase),
        &options(cache.path()),
    )
    .expect("the repository is made");
    for after in 0..=disk.op_count() {
        for cut in 0..8 {
            let folder = Folder::open(disk.crash_image(after, cut)).expect("the folder opens");
            if folder.read(&Name::Config, 1 << 20).is_err() {
                assert!(after < disk.op_count(), "the config is lost");
                continue;
            }
            let slots = folder.list(Area::Keys).expect("key slots are listed");
            assert_eq!(slots.len(), 1, "after {after}, cut {cut}");
            let slot = folder
                .read(&slots[0].name, 1 << 20)
                .expect("the slot is read");
            let id = blake3::hash(&slot).to_hex().to_string();
            assert_eq!(
                slots[0].name.path(),
                format!("keys/{id}"),
                "after {after}, cut {cut}"
            );
        }
    }
}
