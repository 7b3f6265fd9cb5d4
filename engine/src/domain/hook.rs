//! The user's own commands, run at fixed moments of a backup.

use std::process::Stdio;

use super::DomainError;
use crate::child;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before anything is done to the domain.
    BeforeBackup,
    /// Before the guest is frozen.
    BeforeFreeze,
    /// When the guest runs again.
    AfterFreeze,
    /// While the guest is frozen, before the job begins; of a domain that is off, before its images
    /// are read.
    BeforeJob,
    /// When the disks are read and the job has ended.
    AfterJob,
    /// When all is over, however it went.
    AfterBackup,
}

impl Phase {
    /// All phases, in the order in which they come.
    pub const ALL: [Self; 6] = [
        Self::BeforeBackup,
        Self::BeforeFreeze,
        Self::BeforeJob,
        Self::AfterFreeze,
        Self::AfterJob,
        Self::AfterBackup,
    ];

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeBackup => "before-backup",
            Self::BeforeFreeze => "before-freeze",
            Self::AfterFreeze => "after-freeze",
            Self::BeforeJob => "before-job",
            Self::AfterJob => "after-job",
            Self::AfterBackup => "after-backup",
        }
    }
}

/// A command and its moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// When it runs.
    pub phase: Phase,
    /// What `/bin/sh -c` is given.
    pub command: String,
}

/// What hooks are told, as environment variables.
#[derive(Debug, Clone, Default)]
pub struct HookEnvironment {
    /// Names and values.
    pub variables: Vec<(&'static str, String)>,
}

impl HookEnvironment {
    /// Sets a variable for all hooks that follow.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
    }
}

/// Runs the hooks of a phase, one after the other, until one fails.
pub fn run(hooks: &[Hook], phase: Phase, told: &HookEnvironment) -> Result<(), DomainError> {
    let failed = |reason| DomainError::Hook {
        phase: phase.name(),
        reason,
    };
    for hook in hooks.iter().filter(|hook| hook.phase == phase) {
        let mut command = child::program("/bin/sh");
        command.arg("-c").arg(&hook.command).stdin(Stdio::null());
        command.env("CAIRN_PHASE", phase.name());
        command.envs(told.variables.iter().map(|(name, value)| (*name, value)));
        // What a hook prints is for people, and no result of ours.
        command.stdout(Stdio::from(std::io::stderr()));
        let status = command
            .status()
            .map_err(|error| failed(error.to_string()))?;
        if !status.success() {
            return Err(failed(format!("`{}` ended with {status}", hook.command)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_run_in_their_phase_and_their_status_counts() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let path = folder.path().join("told");
        let hook = |phase, command: String| Hook { phase, command };
        let hooks = [
            hook(
                Phase::BeforeJob,
                format!("echo $CAIRN_PHASE $CAIRN_DOMAIN > {}", path.display()),
            ),
            hook(Phase::AfterJob, "exit 7".to_owned()),
        ];
        let mut told = HookEnvironment::default();
        told.set("CAIRN_DOMAIN", "web1");
        run(&hooks, Phase::BeforeBackup, &told).expect("there is none");
        run(&hooks, Phase::BeforeJob, &told).expect("it succeeds");
        let text = std::fs::read_to_string(&path).expect("the hook wrote it");
        assert_eq!(text, "before-job web1\n");
        let failed = run(&hooks, Phase::AfterJob, &told);
        assert!(matches!(
            failed,
            Err(DomainError::Hook {
                phase: "after-job",
                ..
            })
        ));
    }
}
