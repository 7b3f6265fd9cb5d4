//! The guest agent: whether it answers, and commands that it runs.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crossbeam_channel::after;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Domain, LibvirtError};
use crate::progress::Cancel;

/// How often a command's end is asked for.
const TICK: Duration = Duration::from_millis(100);
/// Longest output that is kept, in characters of base64.
const OUTPUT_LEN_MAX: usize = 4 << 20;
const GARBLED: &str = "the agent's answer makes no sense";

/// A command for the guest's agent to run.
#[derive(Debug, Clone)]
pub struct AgentCommand {
    /// The program's path in the guest.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a command in the guest gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentOutput {
    /// Its exit code, or 128 and the signal that ended it.
    pub code: i64,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    answer: T,
}

#[derive(Deserialize)]
struct Started {
    pid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    exitcode: Option<i64>,
    signal: Option<i64>,
    #[serde(default)]
    out_data: String,
    #[serde(default)]
    err_data: String,
}

type Result<T> = std::result::Result<T, LibvirtError>;

impl Domain {
    /// Asks the agent something, and waits at most so many seconds.
    fn ask_agent(&self, question: &Value, seconds: i32) -> Result<String> {
        let answer = self
            .raw()?
            .qemu_agent_command(&question.to_string(), seconds, 0);
        answer.map_err(|error| LibvirtError::of("ask the guest agent", &error))
    }

    /// Returns whether the agent answers within so many seconds.
    pub fn agent_answers(&self, seconds: i32) -> bool {
        self.ask_agent(&json!({"execute": "guest-ping"}), seconds)
            .is_ok()
    }

    /// Returns whether the guest's file systems are frozen, as the agent says.
    pub fn is_frozen(&self, seconds: i32) -> Result<bool> {
        let status = self.ask_agent(&json!({"execute": "guest-fsfreeze-status"}), seconds)?;
        Ok(status.contains("frozen"))
    }

    /// Runs a command in the guest, and waits for its end.
    ///
    /// # Errors
    ///
    /// Also where it takes too long, or `cancel` asks to stop; it goes on in the guest then.
    pub fn agent_run(&self, command: &AgentCommand, cancel: &Cancel) -> Result<AgentOutput> {
        const CALL: &str = "run a command in the guest";
        let question = json!({"execute": "guest-exec", "arguments": {
            "path": command.path, "arg": command.args, "capture-output": true}});
        let garbled = |_| LibvirtError::invalid(CALL, GARBLED);
        let decode = |text: &str| {
            let decoded = BASE64_STANDARD.decode(text);
            decoded.map_err(|_| LibvirtError::invalid(CALL, GARBLED))
        };
        let answer = self.ask_agent(&question, 10)?;
        let started: Answer<Started> = serde_json::from_str(&answer).map_err(garbled)?;
        let pid = started.answer.pid;
        let question = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
        let begun = Instant::now();
        loop {
            let answer = self.ask_agent(&question, 10)?;
            if answer.len() > 2 * OUTPUT_LEN_MAX {
                return Err(LibvirtError::invalid(CALL, "it wrote too much"));
            }
            let status: Answer<Status> = serde_json::from_str(&answer).map_err(garbled)?;
            let status = status.answer;
            if status.exited {
                let signal = status.signal.unwrap_or_default();
                return Ok(AgentOutput {
                    code: status.exitcode.unwrap_or(signal.saturating_add(128)),
                    stdout: decode(&status.out_data)?,
                    stderr: decode(&status.err_data)?,
                });
            }
            if begun.elapsed() > command.timeout || cancel.is_cancelled() {
                return Err(LibvirtError::invalid(CALL, "it did not end in time"));
            }
            wait(TICK);
        }
    }
}

/// Lets a moment pass before something outside is looked at again.
fn wait(moment: Duration) {
    let _now = after(moment).recv();
}
