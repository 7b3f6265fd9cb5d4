//! Where instant restores keep what must last, and what need not.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cairn_engine::domain::instant::StateFolder;

use crate::folders;

/// The folder for what must last, as it may be typed.
#[derive(Debug, Clone, clap::Args)]
pub struct StateArgs {
    /// Folder for what must outlive a reboot [default: /var/lib/cairn; of a user: in the home]
    #[arg(long, global = true, value_name = "DIR", env = "CAIRN_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Folders, as they may be typed.
#[derive(Debug, Clone, clap::Args)]
pub struct Places {
    #[command(flatten)]
    pub state: StateArgs,

    /// Folder for sockets [default: /run/cairn; of a user: $XDG_RUNTIME_DIR/cairn]
    #[arg(long, global = true, value_name = "DIR", env = "CAIRN_RUN_DIR")]
    pub run_dir: Option<PathBuf>,
}

impl Places {
    fn state(&self) -> Result<PathBuf> {
        let is_root = rustix::process::geteuid().is_root();
        let folder = match &self.state.state_dir {
            Some(folder) => folder.clone(),
            None if is_root => PathBuf::from("/var/lib/cairn"),
            None => {
                let home = || folders::home().map(|home| home.join(".local/state"));
                let folder = folders::named("XDG_STATE_HOME").or_else(home);
                folder
                    .context("give --state-dir: this user has no home")?
                    .join("cairn")
            }
        };
        std::path::absolute(folder).context("cannot tell the current folder")
    }

    /// Returns the folder for what must outlive a reboot.
    pub fn states(&self) -> Result<StateFolder> {
        Ok(StateFolder::new(self.state()?.join("instant")))
    }

    /// Returns the folder for sockets.
    pub fn run(&self) -> Result<PathBuf> {
        let is_root = rustix::process::geteuid().is_root();
        let folder = match &self.run_dir {
            Some(folder) => folder.clone(),
            None if is_root => PathBuf::from("/run/cairn"),
            None => {
                let folder = folders::named("XDG_RUNTIME_DIR");
                folder
                    .context("give --run-dir: XDG_RUNTIME_DIR is not set")?
                    .join("cairn")
            }
        };
        std::path::absolute(folder).context("cannot tell the current folder")
    }

    /// Returns the arguments that name the same folders to another process.
    pub fn arguments(&self) -> Result<Vec<std::ffi::OsString>> {
        let state = self.state()?;
        let run = self.run()?;
        Ok(vec![
            "--state-dir".into(),
            state.into(),
            "--run-dir".into(),
            run.into(),
        ])
    }
}
