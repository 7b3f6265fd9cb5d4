//! The process that watches over an instant restore.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use cairn_engine::child;
use cairn_engine::domain::instant::{Record, StateFolder, Supervision, supervise};
use cairn_engine::format::note::Fact;
use cairn_engine::repository::Repository;
use rustix::process::{Pid, Signal, kill_process};

use super::{ExportProcess, Places};
use crate::context::Context;
use crate::exit::CliError;
use crate::output::{terminal, time};
use crate::session;

/// How long a started watcher may take until the export serves: an index may have to be rebuilt.
const SERVE_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Waits.
pub fn pause(duration: Duration) {
    std::thread::park_timeout(duration);
}

fn program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program again")
}

/// Starts the process that watches over a restore, and waits until the export serves.
pub fn start_watcher(record: &Record, places: &Places) -> Result<()> {
    let states = places.states()?;
    let log_path = states.log(&record.uuid);
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut command = child::fellow(program()?);
    command.arg("-r").arg(&record.repository);
    if let Some(file) = &record.password_file {
        command.arg("--password-file").arg(file);
    }
    command.args(["instant", "run"]).arg(&record.uuid);
    command.args(places.arguments()?).current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let started = command.spawn();
    let mut child = started.context("cannot start the process that watches")?;
    let begun = Instant::now();
    // One that finds the disks whole ends at once, and well.
    while UnixStream::connect(&record.socket).is_err() {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            bail!(
                "the process that watches ended with {status}; see {}",
                log_path.display()
            );
        }
        if begun.elapsed() > SERVE_LIMIT {
            bail!(
                "the export does not begin to serve; see {}",
                log_path.display()
            );
        }
        pause(Duration::from_millis(20));
    }
    Ok(())
}

/// Ends the process that watches over a restore, if there is one. The export goes on.
pub fn stop_watcher(states: &StateFolder, uuid: &str) -> Result<()> {
    let begun = Instant::now();
    while let Some(pid) = states.watcher(uuid) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // One that has ended meanwhile is what is wanted.
            let _ = kill_process(pid, Signal::TERM);
        }
        if begun.elapsed() > STOP_LIMIT {
            bail!("process {pid}, which watches over the restore, does not end");
        }
        pause(Duration::from_millis(50));
    }
    Ok(())
}

/// Watches over a restore until its disks are whole, and clears up then.
pub fn watch(name: &str, places: &Places, context: &Context) -> Result<()> {
    // A service has a session of its own already.
    let _ = rustix::process::setsid();
    let states = places.states()?;
    let unknown = || CliError::Usage(format!("there is no instant restore of `{name}`"));
    let record = states.find(name)?.ok_or_else(unknown)?;
    let Some(_watch) = states.watch(&record.uuid)? else {
        bail!(
            "another process watches over the restore of {} already",
            record.domain
        );
    };
    let cancel = context.cancel()?;
    let mut exporter = ExportProcess::new(&record, program()?, states.log(&record.uuid));
    let mut say = |text: &str| {
        let now = time::local(jiff::Timestamp::now());
        terminal::say(&format!("{now} {}: {text}", record.domain));
    };
    let ended = supervise(&mut exporter, &states, record.clone(), &cancel, &mut say)?;
    match ended {
        Supervision::Cancelled => Ok(()),
        Supervision::Whole => {
            let repository = session::open(context)?;
            exporter.stop().context("cannot end the export")?;
            finish(&repository, &states, &record)
        }
    }
}

/// Takes the pin off and the record away: nothing needs the snapshot any more.
pub fn finish(repository: &Repository, states: &StateFolder, record: &Record) -> Result<()> {
    let what = record.pin.clone();
    repository.add_note(record.snapshot, Fact::Unpinned { what })?;
    // In this order: without a record nobody would take the pin off.
    Ok(states.remove(&record.uuid)?)
}
