//! A throw-away domain that runs, and what becomes of its guest.

use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::after;

use super::console::{Console, Rule};
use super::folder::end_domain;
use super::{ProveError, ProveFolder};
use crate::progress::Cancel;
use crate::source::libvirt::{
    AgentCommand, AgentOutput, Connection, Domain, DomainState, LibvirtError,
};

/// How often the guest is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Seconds that the agent has for one answer.
const ANSWER_SECONDS: i32 = 2;

/// A throw-away domain; ended when this is dropped.
pub struct Machine<'f> {
    domain: Domain,
    folder: &'f ProveFolder,
}

/// What is waited for.
pub struct Watch<'w> {
    /// What the guest must write to its first serial line; without it, its agent must answer.
    pub pattern: Option<&'w Rule<'w>>,
    /// What is run by a shell in the guest then, and must end with 0.
    pub command: Option<&'w str>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// Tells when to stop.
    pub cancel: &'w Cancel,
}

/// What was seen of a guest.
#[derive(Debug, Default)]
pub struct Seen {
    /// Whether its agent answered.
    pub agent_answered: bool,
    /// Whether it wrote what was waited for.
    pub pattern_found: bool,
    /// How long it took until it was ready.
    pub ready_after: Option<Duration>,
    /// How the command ended.
    pub command: Option<AgentOutput>,
    /// What went wrong; nothing, where the snapshot is proved.
    pub failure: Option<Failure>,
}

/// Why a snapshot is not proved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The guest's machine is off.
    #[error("the guest shut down or crashed before it was ready")]
    Off,
    /// The agent does not answer.
    #[error("the guest's agent did not answer within {seconds} s")]
    NoAgent {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The guest did not write what was waited for.
    #[error("the guest did not write the pattern to its console within {seconds} s")]
    NoPattern {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The command could not be run to its end.
    #[error("the command was not run to its end: {reason}")]
    NoCommand {
        /// Why not.
        reason: String,
    },
    /// The command failed.
    #[error("the command ended with {code}")]
    Command {
        /// Its exit code.
        code: i64,
    },
    /// A disk of the snapshot could not be read.
    #[error("a disk could not be read: {reason}")]
    Disk {
        /// Why not.
        reason: String,
    },
}

impl<'f> Machine<'f> {
    /// Starts a domain, whose disks are served by now.
    pub fn start(
        connection: &Connection,
        xml: &str,
        folder: &'f ProveFolder,
    ) -> Result<Self, LibvirtError> {
        match connection.create_transient(xml) {
            Ok(domain) => Ok(Self { domain, folder }),
            Err(error) => {
                // What was lost may be the answer alone.
                if end_domain(connection, folder.record()).is_err() {
                    folder.keep();
                }
                Err(error)
            }
        }
    }

    /// Returns the domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Waits until the guest is ready, runs the command in it, and tells what it saw.
    ///
    /// # Errors
    ///
    /// What says nothing about the snapshot.
    pub fn watch(&self, how: &Watch<'_>) -> Result<Seen, ProveError> {
        let begun = Instant::now();
        let mut seen = Seen::default();
        let mut console = Console::new(&self.folder.console());
        loop {
            if how.cancel.is_cancelled() {
                return Err(ProveError::Cancelled);
            }
            if !self.is_up()? {
                seen.failure = Some(Failure::Off);
                return Ok(seen);
            }
            self.look(how, &mut console, &mut seen)?;
            let needs_pattern = how.pattern.is_some() && !seen.pattern_found;
            let needs_agent = how.needs_agent() && !seen.agent_answered;
            if !needs_pattern && !needs_agent {
                break;
            }
            if begun.elapsed() > how.timeout {
                let seconds = how.timeout.as_secs();
                seen.failure = Some(match needs_pattern {
                    true => Failure::NoPattern { seconds },
                    false => Failure::NoAgent { seconds },
                });
                return Ok(seen);
            }
            wait(TICK);
        }
        seen.ready_after = Some(begun.elapsed());
        if let Some(command) = how.command {
            self.run(command, how, begun, &mut seen)?;
        }
        Ok(seen)
    }

    fn look(
        &self,
        how: &Watch<'_>,
        console: &mut Console,
        seen: &mut Seen,
    ) -> Result<(), ProveError> {
        if let Some(pattern) = how.pattern.filter(|_| !seen.pattern_found) {
            let path = self.folder.console();
            let found = console.look(pattern);
            seen.pattern_found = found.map_err(ProveError::file("read", &path))?;
        }
        if how.needs_agent() && !seen.agent_answered {
            seen.agent_answered = self.domain.agent_answers(ANSWER_SECONDS);
        }
        Ok(())
    }

    fn run(
        &self,
        command: &str,
        how: &Watch<'_>,
        begun: Instant,
        seen: &mut Seen,
    ) -> Result<(), ProveError> {
        let left = how.timeout.saturating_sub(begun.elapsed());
        let shell = AgentCommand {
            path: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), command.to_owned()],
            timeout: left.max(Duration::from_secs(1)),
        };
        match self.domain.agent_run(&shell, how.cancel) {
            _ if how.cancel.is_cancelled() => return Err(ProveError::Cancelled),
            Ok(output) => {
                let code = output.code;
                seen.failure = (code != 0).then_some(Failure::Command { code });
                seen.command = Some(output);
            }
            Err(error) if error.is_disconnected() => return Err(error.into()),
            Err(_) if !self.is_up()? => seen.failure = Some(Failure::Off),
            Err(error) => {
                let reason = error.message;
                seen.failure = Some(Failure::NoCommand { reason });
            }
        }
        Ok(())
    }

    fn is_up(&self) -> Result<bool, ProveError> {
        match self.domain.state()? {
            DomainState::Running | DomainState::Paused => Ok(true),
            DomainState::InShutdown | DomainState::Off => Ok(false),
            DomainState::PausedByIoError => {
                let folder = self.folder.record().folder.clone();
                Err(ProveError::NoRoom { folder })
            }
        }
    }

    /// Returns the last lines that the guest wrote to its first serial line.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        super::console::last_lines(&self.folder.console(), count)
    }

    /// Returns the folder with what the guest writes.
    pub fn folder(&self) -> &Path {
        &self.folder.record().folder
    }
}

impl Watch<'_> {
    fn needs_agent(&self) -> bool {
        self.pattern.is_none() || self.command.is_some()
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if end_domain(self.domain.connection(), self.folder.record()).is_err() {
            // The next proof finds both the domain and the folder.
            self.folder.keep();
        }
    }
}

/// Lets a moment pass before something outside is looked at again.
fn wait(moment: Duration) {
    let _now = after(moment).recv();
}
