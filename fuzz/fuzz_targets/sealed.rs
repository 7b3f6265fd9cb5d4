//! Sealed documents and parts of packs. The first byte says what is done: bytes from outside are
//! opened, or a document is sealed, and a byte of it changed.
#![no_main]

use cairn_engine::crypto::{Keys, MasterKey};
use cairn_engine::format::{FileKind, Salt};
use cairn_engine::id::RepositoryId;
use libfuzzer_sys::fuzz_target;

const KINDS: [FileKind; 3] = [FileKind::Manifest, FileKind::Note, FileKind::GcPlan];

fuzz_target!(|bytes: &[u8]| {
    let Some(([choice, place], document)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    // The keys of the golden vectors, so that those open.
    let repository = RepositoryId::from_bytes(std::array::from_fn(|i| 0x20 + i as u8));
    let master = MasterKey::from_bytes(std::array::from_fn(|i| i as u8));
    let keys = Keys::sealed(repository, &master);
    let kind = KINDS[usize::from(choice % 3)];
    if choice & 0x80 == 0 {
        // Failing is an answer too.
        drop(keys.open_document(kind, document.to_vec()));
        let seal = keys.file(FileKind::DataPack, &Salt::from_bytes([*place; 32]));
        assert!(
            seal.open(u64::from(*choice), &mut document.to_vec())
                .is_err()
        );
        return;
    }
    let sealed = keys.seal_document(kind, document.to_vec());
    let opened = keys.open_document(kind, sealed.clone());
    assert_eq!(opened.expect("what was sealed opens"), document);
    let mut changed = sealed;
    let place = usize::from(*place) % changed.len();
    changed[place] ^= 1 << (choice % 8);
    assert!(keys.open_document(kind, changed).is_err());
});
