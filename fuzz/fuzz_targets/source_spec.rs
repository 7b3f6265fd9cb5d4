//! Sources as people name them: refused in one printable line, or a path that was there.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use cairn_engine::source::SourceSpec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match SourceSpec::parse(OsStr::from_bytes(text)) {
        Ok(spec) => assert!(text.starts_with(&spec.path.as_os_str().as_bytes()[..1])),
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
});
