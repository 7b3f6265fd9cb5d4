//! Questions before something that people have regretted.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context as _, Result};

use crate::exit::CliError;
use crate::output::Report;
use crate::output::terminal::Plain;

/// Returns whether there is somebody who can be asked.
pub fn is_anyone_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Shows what is about to happen, and asks whether it may.
///
/// # Errors
///
/// That it may not: nothing is to be done then.
pub fn may(plan: &impl Report, question: &str) -> Result<()> {
    let mut shown = Vec::new();
    plan.write_text(&mut shown)?;
    shown.extend(format!("{question} [y/N] ").bytes());
    Plain(io::stderr()).write_all(&shown)?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.context("cannot read the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" | "Yes" | "YES" => Ok(()),
        _ => Err(CliError::Declined.into()),
    }
}
