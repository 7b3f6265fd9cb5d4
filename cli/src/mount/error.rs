//! What can go wrong with a mount.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::users::User;

/// Why a snapshot could not be mounted, or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// Only root may mount.
    #[error("only root can mount")]
    NotRoot,
    /// Something that is needed cannot be read or written.
    #[error("cannot {op} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program of the system cannot be started.
    #[error("cannot run {program} (package {package})")]
    NoTool {
        /// The program.
        program: &'static str,
        /// Debian's package that brings it.
        package: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A program of the system failed.
    #[error("{}", tool_text(.program, .said, *.status))]
    Tool {
        /// The program.
        program: &'static str,
        /// The first line that it said.
        said: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The kernel cannot mount a file system of this kind.
    #[error("this machine's kernel has no driver for {kind}")]
    NoDriver {
        /// The kind, as the kernel calls it.
        kind: &'static str,
    },
    /// The folder is one of another mount of ours.
    #[error("a snapshot is mounted at {} already", .directory.display())]
    Mounted {
        /// The folder.
        directory: PathBuf,
    },
    /// No mount of ours is there.
    #[error("no snapshot is mounted at {}", .directory.display())]
    NotMounted {
        /// The folder.
        directory: PathBuf,
    },
    /// Someone works in the mounted file systems.
    #[error("{} is in use{}", .directory.display(), Named(.users))]
    Busy {
        /// The folder.
        directory: PathBuf,
        /// Who, as far as that is known.
        users: Vec<User>,
    },
    /// The disks hold no file system that can be mounted.
    #[error("there is nothing to mount: {}", .reasons.join("; "))]
    Nothing {
        /// What there is, and why it was left out.
        reasons: Vec<String>,
    },
    /// Someone asked to stop before the mount was ready.
    #[error("interrupted; nothing is mounted")]
    Interrupted,
}

fn tool_text(program: &str, said: &str, status: ExitStatus) -> String {
    match said {
        "" => format!("{program} failed ({status})"),
        said => format!("{program}: {said}"),
    }
}

struct Named<'a>(&'a [User]);

impl fmt::Display for Named<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, user) in self.0.iter().enumerate() {
            let before = if index == 0 { " by" } else { "," };
            write!(out, "{before} {user}")?;
        }
        Ok(())
    }
}
