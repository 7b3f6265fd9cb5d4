//! Passphrases: from a file, the environment or the terminal; wiped after use.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;

use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

use crate::exit::CliError;

/// A passphrase is a line; anything longer is the wrong file.
const LEN_MAX: u64 = 64 * 1024;
const VARIABLE: &str = "CAIRN_PASSWORD";

/// Returns the passphrase of a repository that there is: from `file`, the environment, or a prompt.
pub fn existing(file: Option<&Path>) -> Result<Zeroizing<String>> {
    match file {
        Some(file) => from_file(file),
        None => match from_environment()? {
            Some(passphrase) => Ok(passphrase),
            None => prompt("Passphrase: "),
        },
    }
}

/// Returns the passphrase of a repository that is being made; a prompt asks twice.
pub fn first(file: Option<&Path>) -> Result<Zeroizing<String>> {
    match file {
        Some(file) => from_file(file),
        None => match from_environment()? {
            Some(passphrase) => Ok(passphrase),
            None => prompt_twice("New passphrase: "),
        },
    }
}

/// Returns another passphrase for a repository that has one. The environment is not asked: it has
/// the one that is there.
pub fn another(file: Option<&Path>) -> Result<Zeroizing<String>> {
    match file {
        Some(file) => from_file(file),
        None => prompt_twice("New passphrase: "),
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<String>> {
    let read = || first_line(File::open(path)?);
    let line =
        read().with_context(|| format!("cannot read a passphrase from {}", path.display()))?;
    not_empty(line)
}

/// Reads the first line, however it ends, into memory that is wiped.
fn first_line(from: impl Read) -> io::Result<Zeroizing<String>> {
    // All of the room at once: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(String::with_capacity(LEN_MAX as usize));
    let mut from = BufReader::with_capacity(1, from.take(LEN_MAX));
    from.read_line(&mut line)?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

/// Returns whether the environment has a passphrase.
pub fn is_in_environment() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

fn from_environment() -> Result<Option<Zeroizing<String>>> {
    let Some(value) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let text = value
        .into_string()
        .map_err(|_| CliError::Usage(format!("{VARIABLE} is not valid UTF-8")))?;
    not_empty(Zeroizing::new(text)).map(Some)
}

fn prompt_twice(text: &str) -> Result<Zeroizing<String>> {
    let passphrase = prompt(text)?;
    if *prompt("Again: ")? != *passphrase {
        return Err(CliError::PassphrasesDiffer.into());
    }
    Ok(passphrase)
}

fn prompt(text: &str) -> Result<Zeroizing<String>> {
    // The prompt goes to the terminal itself, whatever stdout is; but a job without anyone before
    // it must fail and not wait.
    if !io::stdin().is_terminal() && !io::stderr().is_terminal() {
        return Err(CliError::NoPassphrase.into());
    }
    let typed = rpassword::prompt_password(text).map_err(|_| CliError::NoPassphrase)?;
    not_empty(Zeroizing::new(typed))
}

fn not_empty(passphrase: Zeroizing<String>) -> Result<Zeroizing<String>> {
    if passphrase.is_empty() {
        return Err(CliError::EmptyPassphrase.into());
    }
    Ok(passphrase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts() {
        for (bytes, line) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("a b \nnext\n", "a b "),
            ("", ""),
        ] {
            assert_eq!(
                *first_line(bytes.as_bytes()).expect("memory can be read"),
                line
            );
        }
        assert!(first_line(&b"\xff\n"[..]).is_err(), "not UTF-8");
    }

    #[test]
    fn an_endless_line_is_bounded() {
        let line = first_line(io::repeat(b'x')).expect("memory can be read");
        assert_eq!(line.len() as u64, LEN_MAX);
    }

    #[test]
    fn an_empty_passphrase_is_refused() {
        assert!(not_empty(Zeroizing::new(String::new())).is_err());
        assert!(from_file(Path::new("/dev/null")).is_err());
    }
}
