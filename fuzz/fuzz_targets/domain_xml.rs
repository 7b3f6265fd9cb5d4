//! The XML of domains and checkpoints, which comes from libvirt and from snapshots. What parses
//! keeps its meaning when it is written anew.
#![no_main]

use cairn_engine::source::libvirt::xml::{Checkpoint, DomainDescription, Element};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _checkpoint = Checkpoint::parse(text);
    if let Ok(root) = Element::parse(text, "domain") {
        let written = root.to_string();
        let again = Element::parse(&written, "domain").expect("what was written parses");
        assert_eq!(again, root, "{written}");
        let _domain = DomainDescription::of(&root);
    }
});
