//! The directories of parity files, and their records. Whatever decodes has one encoding, and lies
//! within the file that it says it is part of.
#![no_main]

use cairn_engine::format::parity::{ParityDirectory, ParityHead, decode_record, encode_record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(head) = bytes.get(..ParityHead::LEN) else {
        return;
    };
    let Ok(head) = ParityHead::decode(head) else {
        return;
    };
    let layout = head.layout;
    assert!(layout.spares() >= 1 && layout.spares() <= layout.members());
    assert!(u64::from(layout.blocks()) * 4096 >= layout.pack_len());
    for group in [0, layout.groups() - 1] {
        assert!(layout.records_start(group) < layout.file_len());
        assert_eq!(layout.member(group, layout.members()), None);
    }
    // Hashes would stop nearly every input here: the rest is tried as a table, too.
    let rest = &bytes[ParityHead::LEN..];
    let checks = rest.as_chunks().0.iter().copied().map(u64::from_le_bytes);
    let mut checks: Vec<u64> = checks.take(layout.blocks() as usize).collect();
    checks.resize(layout.blocks() as usize, 7);
    let directory = ParityDirectory { head, checks };
    let encoded = directory.encode();
    assert_eq!(encoded.len(), layout.directory_len());
    let decoded = ParityDirectory::decode(&encoded, head.pack);
    assert_eq!(decoded.as_ref(), Ok(&directory));
    let mirrored = directory.encode_mirrored();
    let decoded = ParityDirectory::decode_mirrored(&mirrored, head.pack);
    assert_eq!(decoded.as_ref(), Ok(&directory));
    if let Ok(decoded) = ParityDirectory::decode(bytes, head.pack) {
        assert_eq!(decoded.encode(), bytes);
    }
    if let Ok(decoded) = ParityDirectory::decode_mirrored(bytes, head.pack) {
        assert_eq!(decoded.encode_mirrored(), bytes);
    }
    if let Some(block) = decode_record(head.pack, 3, rest) {
        assert_eq!(encode_record(head.pack, 3, block), rest);
    }
});
