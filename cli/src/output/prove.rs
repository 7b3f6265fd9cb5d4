//! What `prove` says.

use std::io::{self, Write};
use std::path::PathBuf;

use cairn_engine::id::SnapshotId;
use cairn_engine::source::libvirt::AgentOutput;
use serde::Serialize;

use super::Report;
use super::table::printable;
use super::time;

/// Most bytes of a command's output that are shown.
const OUTPUT_LEN_MAX: usize = 64 * 1024;

/// A verdict on a snapshot.
#[derive(Debug, Serialize)]
pub struct ProveReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its VM.
    pub vm: String,
    /// Whether it is proved.
    pub passed: bool,
    /// Why it is not.
    pub failure: Option<String>,
    /// The name that the throw-away domain had.
    pub domain: String,
    /// What ran the guest: `KVM` or `TCG`.
    pub accel: &'static str,
    /// Whether the guest's agent answered.
    pub agent_answered: bool,
    /// Whether the console showed what was waited for.
    pub pattern_found: bool,
    /// How long it took until the guest was ready.
    pub ready_after_ms: Option<u128>,
    /// The command that was run in the guest.
    pub command: Option<RanCommand>,
    /// Where the picture of the screen is.
    pub screenshot: Option<PathBuf>,
    /// The last lines that the guest wrote to its first serial line.
    pub console: Vec<String>,
    /// What the throw-away domain had not of the original.
    pub dropped: Vec<String>,
}

/// A command that was run in the guest.
#[derive(Debug, Serialize)]
pub struct RanCommand {
    /// Its exit code.
    pub code: i64,
    /// The beginning of what it wrote to its standard output.
    pub stdout: String,
    /// The beginning of what it wrote to its standard error.
    pub stderr: String,
}

impl RanCommand {
    /// Takes over what the agent told.
    pub fn of(output: AgentOutput) -> Self {
        let text = |mut bytes: Vec<u8>| {
            bytes.truncate(OUTPUT_LEN_MAX);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self {
            code: output.code,
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Report for ProveReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for dropped in &self.dropped {
            writeln!(out, "left out: {}", printable(dropped.clone()))?;
        }
        if let Some(command) = &self.command {
            for line in command.stdout.lines().chain(command.stderr.lines()) {
                writeln!(out, "guest: {}", printable(line.to_owned()))?;
            }
        }
        if let Some(path) = &self.screenshot {
            writeln!(out, "screen: {}", path.display())?;
        }
        let (snapshot, vm) = (self.snapshot.short(), printable(self.vm.clone()));
        let accel = self.accel;
        if let Some(failure) = &self.failure {
            for line in &self.console {
                writeln!(out, "console: {}", printable(line.clone()))?;
            }
            let failure = printable(failure.clone());
            return writeln!(
                out,
                "snapshot {snapshot} of {vm} FAILED under {accel}: {failure}"
            );
        }
        write!(out, "snapshot {snapshot} of {vm} is proved under {accel}")?;
        match self
            .ready_after_ms
            .and_then(|ms| u64::try_from(ms / 1000).ok())
        {
            Some(seconds) => writeln!(out, ": ready after {}", time::duration(seconds)),
            None => writeln!(out),
        }
    }
}
