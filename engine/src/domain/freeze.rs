//! Holding the guest still around the start of a job, and never longer.
//!
//! Whoever freezes may die, hang, or lose its connection. So a guard, a process of its own session
//! with its own connection to libvirt, is armed before the guest is frozen. It lets the guest go on
//! when its pipe ends, or when too much time has passed, and tries until that is certain.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::after;

use super::DomainError;
use super::pipe::Reading;
use super::run_folder::tell;
use crate::child;
use crate::source::libvirt::{Connection, Domain, DomainState};

/// How long a guest may be held still.
pub const HELD_MAX: Duration = Duration::from_secs(10);
/// How long a guard may take to be ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// How long the agent may take for anything else than freezing, in seconds.
const AGENT_SECONDS: i32 = 5;
/// How often a guard tries again.
const RETRY: Duration = Duration::from_secs(1);
const READY: &str = "ready";
const DONE: &str = "done\n";
/// Longest word between a guard and whoever armed it.
const WORD_LEN_MAX: usize = 64;

/// How the guest is to be held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freeze {
    /// By the agent where it answers, else not.
    #[default]
    Auto,
    /// Not.
    None,
    /// By the agent; the backup fails where that is not possible.
    Agent,
    /// By stopping its processors.
    Suspend,
}

/// How the guest is held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Its file systems are frozen.
    Frozen,
    /// Its processors are stopped.
    Suspended,
}

impl Held {
    /// Returns its name, by which guards are started.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frozen => "agent",
            Self::Suspended => "suspend",
        }
    }

    /// Returns what has this name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "agent" => Some(Self::Frozen),
            "suspend" => Some(Self::Suspended),
            _ => None,
        }
    }
}

/// Decides how the guest is held still; `None` is not at all.
///
/// # Errors
///
/// [`DomainError::NotFrozen`] where the agent is wanted and does not answer.
pub fn choose(
    domain: &Domain,
    wanted: Freeze,
    state: DomainState,
) -> Result<Option<Held>, DomainError> {
    let is_running = state == DomainState::Running;
    match wanted {
        Freeze::None => Ok(None),
        // A guest that does not run is still already.
        Freeze::Suspend => Ok(is_running.then_some(Held::Suspended)),
        Freeze::Auto if !is_running => Ok(None),
        Freeze::Auto => Ok(domain.agent_answers(AGENT_SECONDS).then_some(Held::Frozen)),
        Freeze::Agent if is_running && domain.agent_answers(AGENT_SECONDS) => {
            Ok(Some(Held::Frozen))
        }
        Freeze::Agent => Err(DomainError::NotFrozen {
            reason: "its agent does not answer".to_owned(),
        }),
    }
}

/// A guard's command line: a program that calls [`guard`] with what stands after it.
#[derive(Debug, Clone)]
pub struct GuardProgram {
    /// The program.
    pub program: PathBuf,
    /// Arguments before those that this module adds: `URI UUID HELD`.
    pub args: Vec<String>,
}

/// A guard that is armed.
struct Guard {
    child: Child,
    pipe: ChildStdin,
}

impl Guard {
    fn arm(program: &GuardProgram, domain: &Domain, held: Held) -> Result<Self, DomainError> {
        let failed = |reason: String| DomainError::NotFrozen { reason };
        let mut command = child::program(&program.program);
        command
            .args(&program.args)
            .args([domain.connection().uri(), domain.uuid(), held.name()]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command
            .spawn()
            .map_err(|error| failed(format!("no guard: {error}")))?;
        let (Some(pipe), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("the guard has no pipes".to_owned()));
        };
        let word = Reading::new(Some(output), WORD_LEN_MAX).line(READY_MAX);
        if word.is_some_and(|word| word.trim() == READY) {
            return Ok(Self { child, pipe });
        }
        drop(child.kill());
        drop(child.wait());
        Err(failed("its guard cannot reach libvirt".to_owned()))
    }

    /// Sends the guard home: the guest runs.
    fn disarm(mut self) {
        tell(&mut self.pipe, DONE);
        drop(self.pipe);
        drop(self.child.wait());
    }
}

/// A guest that is held still; let go when dropped.
pub struct Stillness {
    domain: Domain,
    held: Held,
    file_systems: u32,
    since: Instant,
    guard: Option<Guard>,
}

/// How the guest was held still in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetGo {
    /// Whether it was all the time until it was let go.
    pub was_still: bool,
    /// How long.
    pub window: Duration,
}

impl LetGo {
    /// Returns how a guest was held still of which it is known after so long. The guard never holds
    /// one for longer than [`HELD_MAX`], however late that is learnt.
    fn after(was_still: bool, elapsed: Duration) -> Self {
        Self {
            was_still: was_still && elapsed < HELD_MAX,
            window: elapsed.min(HELD_MAX),
        }
    }
}

impl Stillness {
    /// Arms a guard and holds the guest still.
    ///
    /// # Errors
    ///
    /// [`DomainError::NotFrozen`]; the guest runs then.
    pub fn begin(program: &GuardProgram, domain: &Domain, held: Held) -> Result<Self, DomainError> {
        // Freezing waits for writes under way, and is bounded by the guard.
        let bound = i32::try_from(HELD_MAX.as_secs()).unwrap_or(AGENT_SECONDS);
        drop(domain.set_agent_timeout(bound));
        let guard = Guard::arm(program, domain, held)?;
        let mut still = Self {
            domain: domain.clone(),
            held,
            file_systems: 0,
            since: Instant::now(),
            guard: Some(guard),
        };
        let stopped = match held {
            Held::Frozen => domain.freeze().map(|count| still.file_systems = count),
            Held::Suspended => domain.suspend(),
        };
        match stopped {
            Ok(()) => Ok(still),
            Err(error) => {
                // It may be frozen all the same, in part or a moment later.
                let reason = error.to_string();
                drop(still);
                Err(DomainError::NotFrozen { reason })
            }
        }
    }

    /// Lets the guest go on.
    pub fn end(mut self) -> LetGo {
        let was_still = self.release();
        LetGo::after(was_still, self.since.elapsed())
    }

    /// Lets the guest go on; where that fails, the guard does it.
    fn release(&mut self) -> bool {
        let Some(guard) = self.guard.take() else {
            return false;
        };
        let (went_on, was_still) = match self.held {
            Held::Frozen => match self.domain.thaw() {
                // Someone else thawed it before: it was not still until now.
                Ok(count) => (true, count > 0 || self.file_systems == 0),
                Err(_) => (false, false),
            },
            Held::Suspended => match self.domain.state() {
                Ok(DomainState::Paused) => (self.domain.resume().is_ok(), true),
                Ok(_) => (true, false),
                Err(_) => (false, false),
            },
        };
        match went_on {
            true => guard.disarm(),
            // The end of the pipe tells the guard, which goes on alone.
            false => drop(guard),
        }
        was_still
    }
}

impl Drop for Stillness {
    fn drop(&mut self) {
        self.release();
    }
}

/// Guards a guest that is about to be held still: the guard's own process calls this. `say` tells
/// whoever started it that it is ready; `input` is the pipe from there.
///
/// # Errors
///
/// What stood in the way of being ready.
pub fn guard(
    uri: &str,
    uuid: &str,
    held: Held,
    input: impl AsFd,
    say: impl FnOnce(&str),
) -> Result<(), DomainError> {
    let connection = Connection::open(Some(uri))?;
    let domain = connection.domain(uuid)?;
    say(READY);
    let word = Reading::new(Some(input), WORD_LEN_MAX).line(HELD_MAX);
    if word.is_some_and(|word| word == DONE) {
        return Ok(());
    }
    loop {
        drop(connection.revive());
        if let_go(&domain, held) {
            return Ok(());
        }
        let _now = after(RETRY).recv();
    }
}

/// Lets a guest go on, and returns whether that is certain: it does, or it is off.
pub fn let_go(domain: &Domain, held: Held) -> bool {
    match (domain.state(), held) {
        (Ok(state), _) if !state.has_process() => true,
        (Ok(_), Held::Frozen) => domain.thaw().is_ok(),
        (Ok(DomainState::Paused), Held::Suspended) => domain.resume().is_ok(),
        (Ok(_), Held::Suspended) => true,
        (Err(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_guest_was_still_for_longer_than_the_guard_lets_it() {
        let late = LetGo::after(true, Duration::from_millis(14_048));
        assert_eq!((late.was_still, late.window), (false, HELD_MAX));
        let soon = LetGo::after(true, Duration::from_millis(40));
        assert_eq!(soon.window, Duration::from_millis(40));
        assert!(soon.was_still);
    }
}
