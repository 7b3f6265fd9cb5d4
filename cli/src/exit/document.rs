//! A failure as a JSON document.

use std::io::{self, Write};

use serde::Serialize;

/// What went wrong.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// Its kind: `usage`, `not_found`, `locked`, `unsupported`, `damage`, `wrong_key`, `cancelled`,
    /// `no_space`, `denied`, `unreachable` or `failed`.
    pub class: &'static str,
    /// What people are told.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    error: &'a Failure,
}

/// Prints it on stdout. Whoever has stopped reading is told by the exit code.
pub fn print(failure: &Failure) {
    let mut out = io::stdout().lock();
    let document = Document { error: failure };
    if serde_json::to_writer_pretty(&mut out, &document).is_ok() {
        drop(writeln!(out));
    }
}

/// Returns what is wrong with a command line, without the advice that follows.
pub fn message_of(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}
