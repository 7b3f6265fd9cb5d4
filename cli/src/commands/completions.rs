//! `cairn completions`: what a shell needs to complete command lines.

use std::io::{self, Write};

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::context::{Context, closed_pipe_is_fine};
use crate::exit::Outcome;

const EXAMPLES: &str = "\
Examples:
  cairn completions bash > /etc/bash_completion.d/cairn
  cairn completions zsh > \"${fpath[1]}/_cairn\"
  cairn completions fish > ~/.config/fish/completions/cairn.fish";

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// Shell to write for
    pub shell: Shell,
}

/// Runs the command.
pub fn run(args: &CompletionsArgs, _context: &Context) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cairn", &mut script);
    closed_pipe_is_fine(io::stdout().write_all(&script))?;
    Ok(Outcome::Done)
}
