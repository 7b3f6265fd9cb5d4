//! Recipe nodes: whatever decodes has one encoding.
#![no_main]

use cairn_engine::format::recipe::Node;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for window in [2 << 20, 4 << 20] {
        if let Ok(node) = Node::decode(bytes, window) {
            let written = node
                .encode(window)
                .expect("what was decoded is within its limits");
            assert_eq!(written, bytes);
        }
    }
});
