//! Paths found in a repository's folder: whatever has a name, has it under that path alone.
#![no_main]

use cairn_engine::storage::Name;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    if let Some(name) = Name::from_path(path) {
        assert_eq!(name.path(), path);
    }
});
