//! What the commands for libvirt's domains share: the connection, the run folder, the guard.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cairn_engine::domain::freeze::GuardProgram;
use cairn_engine::source::libvirt::{Connection, Domain};

use crate::exit::CliError;

/// Where libvirt is, and where runs keep what they share with it.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectArgs {
    /// libvirt's URI, such as qemu:///system or qemu+ssh://host/system [default: as virsh]
    #[arg(long, value_name = "URI")]
    pub connect: Option<String>,

    /// Folder for the sockets and locks of running backups
    ///
    /// [default: /run/cairn for root, else cairn in XDG_RUNTIME_DIR]. QEMU's user must get through.
    #[arg(
        long,
        value_name = "DIR",
        env = "CAIRN_RUN_DIR",
        hide_env_values = true
    )]
    pub run_dir: Option<PathBuf>,
}

impl ConnectArgs {
    /// Connects.
    pub fn open(&self) -> Result<Connection> {
        Ok(Connection::open(self.connect.as_deref())?)
    }

    /// Connects, and finds a domain.
    pub fn domain(&self, name: &str) -> Result<Domain> {
        Ok(self.open()?.domain(name)?)
    }

    /// Returns the folder for running backups.
    pub fn run_folder(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.run_dir {
            let absolute = std::path::absolute(folder);
            return absolute.context("cannot tell the current folder");
        }
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/run/cairn"));
        }
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let runtime = runtime.filter(|folder| folder.is_absolute());
        let runtime = runtime.ok_or_else(|| {
            CliError::Usage("XDG_RUNTIME_DIR is not set: give --run-dir DIR".to_owned())
        })?;
        Ok(runtime.join("cairn"))
    }
}

/// Returns how this program is started as a guard.
pub fn guard_program() -> Result<GuardProgram> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    Ok(GuardProgram {
        program,
        args: vec!["guard".to_owned()],
    })
}
