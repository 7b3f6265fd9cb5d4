//! Manifests, key slots, notes, collection plans and sessions: the first byte says which, the rest
//! is the document. What decodes keeps its meaning when it is written anew.
#![no_main]

use cairn_engine::format::keys::KeySlot;
use cairn_engine::format::manifest::Manifest;
use cairn_engine::format::note::Note;
use cairn_engine::format::plan::Plan;
use cairn_engine::format::session::SessionDocument;
use libfuzzer_sys::fuzz_target;

macro_rules! round_trip {
    ($kind:ident, $bytes:expr) => {
        if let Ok(document) = $kind::decode($bytes) {
            let written = document
                .encode()
                .expect("what was decoded is within its limits");
            assert_eq!(
                $kind::decode(&written).expect("what was written decodes"),
                document
            );
        }
    };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, document)) = bytes.split_first() else {
        return;
    };
    match kind {
        b'm' => round_trip!(Manifest, document),
        b'k' => round_trip!(KeySlot, document),
        b'n' => round_trip!(Note, document),
        b'p' => round_trip!(Plan, document),
        b's' => round_trip!(SessionDocument, document),
        _ => {}
    }
});
