//! Passphrases: from a file, the environment, a command, systemd or the terminal; wiped after use.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use cairn_engine::{child, printable};
use zeroize::Zeroizing;

use crate::context::warn;
use crate::exit::CliError;

/// A passphrase is a line; anything longer is the wrong file.
const LEN_MAX: u64 = 64 * 1024;
const VARIABLE: &str = child::PASSPHRASE;
const COMMAND: &str = child::PASSPHRASE_COMMAND;
/// The folder in which systemd gives a service its credentials, and the name of ours there.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
const CREDENTIAL: &str = "cairn.password";
/// Shorter ones are guessed by whoever has a copy of the repository, and patience.
const LEN_GOOD: usize = 12;

/// A passphrase that is there without anyone being asked.
enum Given {
    File(PathBuf),
    Text(OsString),
    Command(OsString),
}

/// Returns where the passphrase is, by a file that was named, else by the environment.
fn given(file: Option<&Path>) -> Option<Given> {
    let credential = || {
        let folder = PathBuf::from(std::env::var_os(CREDENTIALS)?);
        Some(folder.join(CREDENTIAL)).filter(|path| path.exists())
    };
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    file.map(|file| Given::File(file.to_owned()))
        .or_else(|| std::env::var_os(VARIABLE).map(Given::Text))
        .or_else(|| variable(COMMAND).map(Given::Command))
        .or_else(|| credential().map(Given::File))
}

/// Returns whether a passphrase is there without anyone being asked.
pub fn is_given(file: Option<&Path>) -> bool {
    given(file).is_some()
}

/// Returns the passphrase of the repository at `place`: one that is given, or from a prompt.
pub fn existing(file: Option<&Path>, place: &Path) -> Result<Zeroizing<String>> {
    match given(file) {
        Some(given) => given.read(),
        None => prompt(&format!("Passphrase of {}: ", place.display())),
    }
}

/// Returns the passphrase of a repository that is being made at `place`; a prompt asks twice.
pub fn first(file: Option<&Path>, place: &Path) -> Result<Zeroizing<String>> {
    let passphrase = match given(file) {
        Some(given) => given.read()?,
        None => prompt_twice(&format!("New passphrase of {}: ", place.display()))?,
    };
    warn_of_weak(&passphrase);
    Ok(passphrase)
}

/// Returns another passphrase for a repository that has one. The environment is not asked: it has
/// the one that is there.
pub fn another(file: Option<&Path>) -> Result<Zeroizing<String>> {
    let passphrase = match file {
        Some(file) => from_file(file)?,
        None => prompt_twice("New passphrase: ")?,
    };
    warn_of_weak(&passphrase);
    Ok(passphrase)
}

fn warn_of_weak(passphrase: &str) {
    let len = passphrase.chars().count();
    if len < LEN_GOOD {
        warn(&format!(
            "whoever gets hold of the repository can guess a passphrase of {len} characters: \
             `cairn key passwd` changes it"
        ));
    }
}

impl Given {
    fn read(self) -> Result<Zeroizing<String>> {
        match self {
            Self::File(path) => from_file(&path),
            Self::Command(command) => from_command(&command),
            Self::Text(value) => {
                let text = value.into_string();
                let text =
                    text.map_err(|_| CliError::Usage(format!("{VARIABLE} is not valid UTF-8")))?;
                not_empty(Zeroizing::new(text))
            }
        }
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<String>> {
    let read = || {
        let file = File::open(path)?;
        let found = file.metadata()?;
        if found.is_file() && found.permissions().mode() & 0o044 != 0 {
            let path = path.display();
            warn(&format!(
                "others may read the passphrase in {path}: `chmod 600 {path}`"
            ));
        }
        first_line(file)
    };
    let line =
        read().with_context(|| format!("cannot read a passphrase from {}", path.display()))?;
    not_empty(line)
}

/// Returns the first line that a command prints.
fn from_command(command: &OsString) -> Result<Zeroizing<String>> {
    let mut shell = child::program("sh");
    shell.arg("-c").arg(command).stdout(Stdio::piped());
    let child = shell.spawn();
    let mut child = child.with_context(|| format!("cannot run the command of {COMMAND}"))?;
    let out = child.stdout.take().context("the command has no output")?;
    let line = first_line(out);
    let status = child.wait()?;
    if !status.success() {
        bail!("the command of {COMMAND} failed: {status}");
    }
    not_empty(line.with_context(|| format!("cannot read what the command of {COMMAND} prints"))?)
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
    let typed =
        rpassword::prompt_password(printable::text(text)).map_err(|_| CliError::NoPassphrase)?;
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
