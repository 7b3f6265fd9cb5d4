//! Programs that are run: hooks, ssh, `qemu-img`, tools of the system, and Cairn itself.
//!
//! `tests/tidy/terminal.rs` sees to it that all are begun here.

use std::ffi::OsStr;
use std::process::Command;

/// The variable that may hold the repository's passphrase. What is told to a child is told to all
/// that it starts: it comes into logs, into the `/proc` of other users, to other hosts.
pub const PASSPHRASE: &str = "CAIRN_PASSWORD";
/// The variable that may hold a command that prints it, and so the passphrase itself.
pub const PASSPHRASE_COMMAND: &str = "CAIRN_PASSWORD_COMMAND";

/// Returns a program that is not told the passphrase, nor how it is had.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env_remove(PASSPHRASE);
    command.env_remove(PASSPHRASE_COMMAND);
    command
}

/// Returns Cairn itself, which opens the repository as this process does and is told the passphrase
/// where this process was.
pub fn fellow(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cairn_itself_is_told_the_passphrase() {
        let told = program("sh");
        let removed: Vec<_> = told.get_envs().collect();
        let hidden = [PASSPHRASE, PASSPHRASE_COMMAND].map(|name| (OsStr::new(name), None));
        assert_eq!(removed, hidden);
        assert_eq!(fellow("cairn").get_envs().count(), 0);
    }
}
