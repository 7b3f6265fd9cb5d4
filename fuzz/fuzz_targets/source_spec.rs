//! Sources as people name them: refused in one printable line, or a path that was there.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use cairn_engine::source::{Location, SourceSpec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match SourceSpec::parse(OsStr::from_bytes(text)) {
        Ok(spec) => match &spec.location {
            Location::File(path) => assert!(text.starts_with(&path.as_os_str().as_bytes()[..1])),
            Location::Nbd(uri) => assert!(uri.to_string().len() <= text.len()),
        },
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
});
