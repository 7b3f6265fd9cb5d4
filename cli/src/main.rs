//! Cairn's command line.

mod args;
mod ask;
mod commands;
mod complete;
mod context;
mod exit;
mod files;
mod folders;
#[cfg(feature = "libvirt")]
mod instant;
mod interrupt;
#[cfg(feature = "libvirt")]
mod libvirt;
mod limit;
mod mount;
mod output;
mod password;
mod session;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;

fn main() -> ExitCode {
    // What a reader of a guest's file system panics over becomes an error, which is shown as one.
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !cairn_engine::guest::guard::is_guarded() {
            shown(panic);
        }
    }));
    if std::env::var_os(complete::VARIABLE).is_some() {
        complete::be_silent();
        CompleteEnv::with_factory(args::Cli::command)
            .var(complete::VARIABLE)
            .complete();
    }
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::report_usage(&error),
    };
    let is_json = cli.global.json;
    let context = context::Context::new(cli.global);
    match commands::run(&cli.command, &context) {
        Ok(outcome) => outcome.into(),
        Err(error) => exit::report(&error, is_json),
    }
}
