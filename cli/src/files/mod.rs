//! Files inside the disks of a snapshot: how they are named, found and shown.

pub mod disks;
pub mod extract;
pub mod place;

use std::error::Error;

/// Returns what a guest calls a file, safe for a terminal.
pub fn shown(bytes: &[u8]) -> String {
    crate::output::table::visible(&String::from_utf8_lossy(bytes))
}

/// Returns an error with its causes, on one line.
pub fn described(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}
