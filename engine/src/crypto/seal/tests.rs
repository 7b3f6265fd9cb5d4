use super::*;
use crate::crypto::MasterKey;

const HOME: RepositoryId = RepositoryId::from_bytes([1; 32]);
const SALT: Salt = Salt::from_bytes([2; 32]);

fn keys(repository: RepositoryId, master: u8) -> Keys {
    Keys::sealed(repository, &MasterKey::from_bytes([master; 32]))
}

fn sealed_frame() -> Vec<u8> {
    let mut bytes = b"some frame".to_vec();
    keys(HOME, 9)
        .file(FileKind::DataPack, &SALT)
        .seal(5, &mut bytes);
    bytes
}

#[test]
fn parts_round_trip() {
    let seal = keys(HOME, 9).file(FileKind::DataPack, &SALT);
    let mut bytes = sealed_frame();
    assert_eq!(bytes.len(), b"some frame".len() + seal.overhead());
    assert!(!bytes.starts_with(b"some frame"));
    assert_eq!(seal.open(5, &mut bytes).as_deref(), Ok(&b"some frame"[..]));
}

#[test]
fn parts_do_not_open_elsewhere() {
    let opens = |keys: Keys, kind, salt, ordinal| {
        let mut bytes = sealed_frame();
        keys.file(kind, &salt).open(ordinal, &mut bytes).is_ok()
    };
    let data = FileKind::DataPack;
    let elsewhere = RepositoryId::from_bytes([3; 32]);
    assert!(opens(keys(HOME, 9), data, SALT, 5));
    assert!(!opens(keys(HOME, 8), data, SALT, 5));
    assert!(!opens(keys(elsewhere, 9), data, SALT, 5));
    assert!(!opens(keys(HOME, 9), FileKind::NodePack, SALT, 5));
    assert!(!opens(keys(HOME, 9), data, Salt::from_bytes([4; 32]), 5));
    for ordinal in [0, 4, 6, FileSeal::FOOTER] {
        assert!(!opens(keys(HOME, 9), data, SALT, ordinal));
    }
}

#[test]
fn every_flipped_bit_and_truncation_of_a_document_is_detected() {
    let keys = keys(HOME, 9);
    let sealed = keys.seal_document(FileKind::Manifest, b"{\"version\":1}".to_vec());
    let open = |bytes: &[u8]| keys.open_document(FileKind::Manifest, bytes.to_vec());
    assert_eq!(open(&sealed).as_deref(), Ok(&b"{\"version\":1}"[..]));
    for bit in 0..sealed.len() * 8 {
        let mut damaged = sealed.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&damaged).is_err(), "bit {bit}");
    }
    for len in 0..sealed.len() {
        assert!(open(&sealed[..len]).is_err(), "{len} bytes");
    }
    assert!(open(&[&sealed[..], &[0]].concat()).is_err());
    assert!(keys.open_document(FileKind::Note, sealed.clone()).is_err());
    assert!(open(b"{\"version\":1}").is_err());
    // The same document is another file each time.
    assert_ne!(
        sealed,
        keys.seal_document(FileKind::Manifest, b"{\"version\":1}".to_vec())
    );
}

#[test]
fn plain_repositories_seal_nothing() {
    let keys = Keys::plain(HOME);
    assert!(!keys.is_sealed() && keys.gear().is_none());
    let seal = keys.file(FileKind::DataPack, &SALT);
    let mut bytes = b"frame".to_vec();
    seal.seal(0, &mut bytes);
    assert_eq!(bytes, b"frame");
    assert_eq!(seal.overhead(), 0);
    assert_eq!(seal.open(0, &mut bytes).as_deref(), Ok(&b"frame"[..]));
    let document = keys.seal_document(FileKind::Note, b"{}".to_vec());
    assert_eq!(
        keys.open_document(FileKind::Note, document).as_deref(),
        Ok(&b"{}"[..])
    );
}

#[test]
fn chunks_and_nodes_of_equal_bytes_have_different_ids() {
    for keys in [Keys::plain(HOME), keys(HOME, 9)] {
        let (chunk, node) = (keys.chunk_id(b"bytes"), keys.node_id(b"bytes"));
        assert_ne!(chunk.as_bytes(), node.as_bytes());
    }
    let (one, other) = (keys(HOME, 9), keys(HOME, 8));
    assert_ne!(one.chunk_id(b""), other.chunk_id(b""));
    assert_ne!(one.gear(), other.gear());
    assert_ne!(one.config_mac(b""), other.config_mac(b""));
}
