//! `cairn man`: manual pages.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::Cli;
use crate::context::{Context, closed_pipe_is_fine};
use crate::exit::{CliError, Outcome};

const EXAMPLES: &str = "\
Examples:
  cairn man --into /usr/local/share/man/man1
  cairn man | man -l -
  cairn man backup | man -l -";

/// Print manual pages, or write all of them into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ManArgs {
    /// Command whose page is printed, such as `key add` [default: the program's own]
    #[arg(conflicts_with = "into")]
    pub words: Vec<String>,

    /// Write a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &ManArgs, context: &Context) -> Result<Outcome> {
    let mut program = Cli::command();
    program.build();
    if let Some(folder) = &args.into {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make folder {}", folder.display()))?;
        let count = write_all(&program, "cairn", folder)?;
        context.remark(&format!("wrote {count} pages to {}", folder.display()));
        return Ok(Outcome::Done);
    }
    let mut command = &program;
    let mut name = "cairn".to_owned();
    for word in &args.words {
        let found = command.find_subcommand(word);
        command = found.ok_or_else(|| CliError::Usage(format!("{name} has no command {word}")))?;
        name += &format!("-{word}");
    }
    closed_pipe_is_fine(io::stdout().write_all(&page(command, &name)?))?;
    Ok(Outcome::Done)
}

/// Returns the page of a command.
fn page(command: &clap::Command, name: &str) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    // Every command is the page of its own.
    let command = command.clone().display_name(name.to_owned());
    Man::new(command).render(&mut page)?;
    Ok(page)
}

/// Writes the pages of a command and of those below it; returns how many.
fn write_all(command: &clap::Command, name: &str, folder: &Path) -> Result<usize> {
    let path = folder.join(format!("{name}.1"));
    fs::write(&path, page(command, name)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut count = 1;
    for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        if below.get_name() != "help" {
            count += write_all(below, &format!("{name}-{}", below.get_name()), folder)?;
        }
    }
    Ok(count)
}
