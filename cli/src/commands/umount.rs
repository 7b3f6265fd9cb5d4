//! `cairn umount`: the end of a mount.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::context::Context;
use crate::exit::Outcome;
use crate::mount::error::MountError;
use crate::mount::place::mounted_at;
use crate::mount::run_folder::RunFolder;
use crate::mount::teardown;
use crate::output::mount::UmountReport;

const EXAMPLES: &str = "\
Examples:
  cairn umount /mnt/web1
  cairn umount /mnt/web1 --lazy

Cleans up as well after a `cairn mount` that was killed. Exits with 11, naming who, if someone uses
what is mounted.";

/// Unmount what `cairn mount` mounted
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct UmountArgs {
    /// Folder that was given to `cairn mount`
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// Unmount at once what is in use: it is served, out of sight, until its users are done
    #[arg(long)]
    pub lazy: bool,
}

/// Runs the command.
pub fn run(args: &UmountArgs, context: &Context) -> Result<Outcome> {
    if !geteuid().is_root() {
        return Err(MountError::NotRoot.into());
    }
    let directory = mounted_at(&args.directory);
    let Some(run) = RunFolder::find(&directory)? else {
        return Err(MountError::NotMounted { directory }.into());
    };
    match args.lazy {
        true => let_go(&run)?,
        false => take_down(&run)?,
    }
    context.report(&UmountReport {
        directory,
        is_lazy: args.lazy,
    })?;
    Ok(Outcome::Done)
}

fn take_down(run: &RunFolder) -> Result<()> {
    let is_alive = run.is_alive();
    teardown::take_down(run)?;
    match is_alive {
        // Its file system is gone, and so it ends.
        true => run.wait_for_end()?,
        false => run.remove()?,
    }
    Ok(())
}

fn let_go(run: &RunFolder) -> Result<()> {
    let is_alive = run.is_alive();
    teardown::detach(run)?;
    if is_alive {
        let pid = i32::try_from(run.state().pid).ok().and_then(Pid::from_raw);
        let pid = pid.context("the run folder names no process")?;
        // It goes when nobody uses its volumes any more.
        kill_process(pid, Signal::TERM).context("cannot tell the mount's process to end")?;
    } else {
        teardown::cut_off(run)?;
        run.remove()?;
    }
    Ok(())
}
