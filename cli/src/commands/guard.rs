//! `cairn guard`: started by a backup before it freezes a guest, and not by people.

use std::io::Write;

use anyhow::Result;
use cairn_engine::domain::freeze::{self, Held};

use crate::exit::{CliError, Outcome};

/// Let a guest go on when whoever froze it is gone
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct GuardArgs {
    /// libvirt's URI
    pub uri: String,
    /// UUID of the domain
    pub uuid: String,
    /// How the guest is held: agent or suspend
    pub held: String,
}

/// Runs the command.
pub fn run(args: &GuardArgs) -> Result<Outcome> {
    // What ends the backup must not end the guard: neither its terminal nor its session's end.
    let _session = rustix::process::setsid();
    crate::interrupt::ignore()?;
    let held = Held::of(&args.held)
        .ok_or_else(|| CliError::Usage("a guest is held by `agent` or `suspend`".to_owned()))?;
    let say = |word: &str| {
        let mut out = std::io::stdout();
        // Whoever does not hear it gives up by itself.
        drop(writeln!(out, "{word}").and_then(|()| out.flush()));
    };
    freeze::guard(&args.uri, &args.uuid, held, std::io::stdin(), say)?;
    Ok(Outcome::Done)
}
