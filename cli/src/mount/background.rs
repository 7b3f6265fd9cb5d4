//! A mount that stays when the command returns.
//!
//! The command runs itself again, as a process that forked before it had threads would be. That
//! one prints what it mounted, then a NUL and its exit code, and lets go of the terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use cairn_engine::child;

use crate::context::closed_pipe_is_fine;
use crate::exit::Outcome;

/// Tells the process that it is the one that stays.
const STAYS: &str = "CAIRN_MOUNT_STAYS";

/// Returns whether this is the process that stays.
pub fn is_the_one_that_stays() -> bool {
    std::env::var_os(STAYS).is_some()
}

/// Starts the process that stays, passes on what it prints, and returns its outcome as a code.
pub fn start() -> Result<u8> {
    let program = std::env::current_exe().context("cannot find this program again")?;
    let mut child = child::fellow(program)
        .args(std::env::args_os().skip(1))
        .env(STAYS, "1")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the process that serves the mount")?;
    let mut printed = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut printed)?;
    }
    let code = match printed.split_last_chunk::<2>() {
        Some((text, [0, code])) => {
            let code = *code;
            let len = text.len();
            printed.truncate(len);
            code
        }
        _ => {
            let status = child.wait()?;
            if let Some(signal) = status.signal() {
                anyhow::bail!("the process that serves the mount was ended by signal {signal}");
            }
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            code.unwrap_or(Outcome::Failed as u8)
        }
    };
    closed_pipe_is_fine(io::stdout().write_all(&printed))?;
    Ok(code)
}

/// Tells the process that waits that all is ready, and lets go of the terminal and of the current
/// folder: relative paths mean something else afterwards.
pub fn ready(outcome: Outcome) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(&[0, outcome as u8])?;
    stdout.flush()?;
    rustix::process::chdir("/").context("cannot leave the current folder")?;
    rustix::process::setsid().context("cannot leave the terminal")?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    Ok(())
}
