//! `cairn cancel`: ends a backup of a domain that is at work on this host.

use std::time::{Duration, Instant};

use anyhow::Result;
use cairn_engine::domain::run_folder::living_run;

use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::libvirt::ConnectArgs;
use crate::output::domain::CancelReport;

/// How long a backup may take to end.
const END_MAX: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  cairn cancel web1
  cairn cancel web1 --connect qemu:///session";

/// End the backup of a domain that is at work
///
/// The backup's own process is asked to stop, and waited for: it publishes nothing, ends its job,
/// and the guest goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CancelArgs {
    /// Name or UUID of the domain
    pub domain: String,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs the command.
pub fn run(args: &CancelArgs, context: &Context) -> Result<Outcome> {
    let domain = args.connect.domain(&args.domain)?;
    let folder = args.connect.run_folder()?;
    let Some((pid, _)) = living_run(&folder, domain.uuid()) else {
        let text = format!("no backup of {} is at work on this host", domain.name());
        return Err(CliError::Usage(text).into());
    };
    let process = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(process) = process {
        rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
    }
    let asked = Instant::now();
    while living_run(&folder, domain.uuid()).is_some() {
        if asked.elapsed() > END_MAX {
            context.warn(&format!(
                "process {pid} was asked to stop, and is still at work"
            ));
            return Ok(Outcome::Problems);
        }
        std::thread::park_timeout(TICK);
    }
    context.report(&CancelReport {
        domain: domain.name().to_owned(),
        pid,
    })?;
    Ok(Outcome::Done)
}
