//! Cairn's command line.

mod args;
mod commands;
mod context;
mod exit;
mod interrupt;
mod output;
mod password;
mod session;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let context = context::Context::new(cli.global);
    match commands::run(&cli.command, &context) {
        Ok(outcome) => outcome.into(),
        Err(error) => exit::report(&error),
    }
}
