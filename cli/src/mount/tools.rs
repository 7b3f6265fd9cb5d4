//! Programs of the system that mount, unmount and look.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Output, Stdio};

use cairn_engine::child;

use super::error::MountError;

/// A program, and the package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    program: &'static str,
    package: &'static str,
}

pub const BLKID: Tool = Tool::new("blkid", "util-linux");
pub const BTRFS: Tool = Tool::new("btrfs", "btrfs-progs");
pub const LOSETUP: Tool = Tool::new("losetup", "mount");
pub const MOUNT: Tool = Tool::new("mount", "mount");
pub const NTFS_3G: Tool = Tool::new("ntfs-3g", "ntfs-3g");
pub const UMOUNT: Tool = Tool::new("umount", "mount");

impl Tool {
    const fn new(program: &'static str, package: &'static str) -> Self {
        Self { program, package }
    }

    /// Returns whether this is the program of the name.
    pub fn is(self, program: &str) -> bool {
        self.program == program
    }

    /// Runs the program, and returns how it ended and what it said.
    ///
    /// A signal from the terminal does not reach it: it is for us to undo what it did.
    pub fn output(self, args: &[&OsStr]) -> Result<Output, MountError> {
        let mut command = child::program(self.program);
        command
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .process_group(0);
        // A shell that is not a login shell of root may lack the system's own folders.
        if let Some(path) = std::env::var_os("PATH") {
            let mut path = path;
            path.push(":/usr/sbin:/sbin");
            command.env("PATH", path);
        }
        command.output().map_err(|source| self.missing(source))
    }

    /// Runs the program, which must succeed, and returns what it printed.
    pub fn run(self, args: &[&OsStr]) -> Result<String, MountError> {
        let output = self.output(args)?;
        if !output.status.success() {
            return Err(self.failure(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Returns the error that a program's bad end is.
    pub fn failure(self, output: &Output) -> MountError {
        let text = String::from_utf8_lossy(&output.stderr);
        let prefix = format!("{}: ", self.program);
        let line = text.lines().find(|line| !line.trim().is_empty());
        let line = line.unwrap_or_default().trim();
        MountError::Tool {
            program: self.program,
            said: line.strip_prefix(&prefix).unwrap_or(line).to_owned(),
            status: output.status,
        }
    }

    fn missing(self, source: io::Error) -> MountError {
        MountError::NoTool {
            program: self.program,
            package: self.package,
            source,
        }
    }
}
