//! What may be said about the backup of a libvirt domain.

use std::path::PathBuf;

use cairn_engine::domain::backup::{Offline, Reading, ScratchOptions, TlsOptions, Way};
use cairn_engine::domain::freeze::Freeze;
use cairn_engine::domain::hook::{Hook, Phase};
use cairn_engine::format::manifest::check_name;
use clap::ValueEnum;

use crate::exit::CliError;
use crate::libvirt::ConnectArgs;
use crate::output::size;

/// Options for domains.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options for libvirt domains")]
pub struct DomainArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,

    /// Back up all domains
    #[arg(long, conflicts_with_all = ["vm", "disks"])]
    pub all: bool,

    /// Back up the domains whose names match (can be given several times)
    #[arg(long = "match", value_name = "GLOB", conflicts_with_all = ["vm", "disks", "all"])]
    pub pattern: Vec<String>,

    /// Name of the VM in the repository, where it is not to be the domain's
    ///
    /// A domain whose name no VM can have, since it has `@` or `:` in it, gets one without it:
    /// `web@dc1` is `web%40dc1`.
    #[arg(long = "as", value_name = "NAME", conflicts_with_all = ["all", "pattern", "disks"])]
    pub name: Option<String>,

    /// Back up N domains at once
    #[arg(long, value_name = "N", default_value = "1")]
    pub jobs: std::num::NonZeroUsize,

    /// Back up only this disk (can be given several times)
    #[arg(long, value_name = "TARGET", conflicts_with = "disks")]
    pub only: Vec<String>,

    /// Leave this disk out (can be given several times)
    #[arg(long, value_name = "TARGET", conflicts_with = "disks")]
    pub exclude: Vec<String>,

    /// Read everything, whatever is known of changes
    #[arg(long, conflicts_with = "incremental")]
    pub full: bool,

    /// Fail where a disk cannot be read by its changes
    #[arg(long)]
    pub incremental: bool,

    /// How the disks are held at one moment
    #[arg(long, value_enum, default_value = "job")]
    pub mode: ModeArg,

    /// Save the guest's memory too; implies --mode snapshot
    #[arg(long)]
    pub memory: bool,

    /// How the guest is held still while the backup begins
    #[arg(long, value_enum, default_value = "auto")]
    pub freeze: FreezeArg,

    /// What is done about a start of a domain that is off
    #[arg(long, value_enum, default_value = "detect")]
    pub offline: OfflineArg,

    /// Run a command at a moment of the backup, such as before-freeze (can be given several times)
    #[arg(long = "hook", value_name = "PHASE=COMMAND", value_parser = parse_hook)]
    pub hooks: Vec<Hook>,

    /// Keep what the guest overwrites meanwhile in DIR [default: beside each image]
    #[arg(long, value_name = "DIR")]
    pub scratch_dir: Option<PathBuf>,

    /// Start only where so much is free for that [default: a tenth of the disks, at least 1 GiB]
    ///
    /// The backup is given up when less than a quarter of it is left.
    #[arg(long, value_name = "SIZE")]
    pub scratch_min: Option<String>,

    /// Port on which QEMU serves a host that is reached by TLS
    #[arg(long, value_name = "PORT", requires = "tls_certificates")]
    pub nbd_port: Option<u16>,

    /// Folder with ca-cert.pem, client-cert.pem and client-key.pem for that
    #[arg(long, value_name = "DIR", requires = "nbd_port")]
    pub tls_certificates: Option<PathBuf>,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// A backup job of QEMU, or the images themselves where the domain is off
    Job,
    /// An external libvirt snapshot, committed back afterwards
    Snapshot,
}

/// `--freeze`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FreezeArg {
    /// By the guest agent where it answers
    Auto,
    /// Not at all: the disks are as after a power cut
    None,
    /// By the guest agent, or the backup fails
    Agent,
    /// By stopping the guest's processors
    Suspend,
}

/// `--offline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OfflineArg {
    /// It is locked out until the backup ends
    Lock,
    /// It is seen, and the backup repeated live
    Detect,
}

fn parse_hook(text: &str) -> Result<Hook, String> {
    let names: Vec<&str> = Phase::ALL.iter().map(|phase| phase.name()).collect();
    let wanted = || {
        format!(
            "PHASE=COMMAND is wanted, with PHASE one of {}",
            names.join(", ")
        )
    };
    let (name, command) = text.split_once('=').ok_or_else(wanted)?;
    let phase = Phase::ALL.into_iter().find(|phase| phase.name() == name);
    Ok(Hook {
        phase: phase.ok_or_else(wanted)?,
        command: command.to_owned(),
    })
}

impl DomainArgs {
    /// Returns which disks are read by their changes.
    pub fn reading(&self) -> Reading {
        match (self.full, self.incremental) {
            (true, _) => Reading::Full,
            (false, true) => Reading::Incremental,
            (false, false) => Reading::Auto,
        }
    }

    /// Refuses what cannot be had together.
    pub fn check(&self) -> Result<(), CliError> {
        let refused = |text: &str| Err(CliError::Usage(text.to_owned()));
        if let Some(Err(error)) = self.name.as_deref().map(check_name) {
            return refused(&format!("--as: {error}"));
        }
        match (self.memory, self.freeze) {
            (true, FreezeArg::None | FreezeArg::Agent | FreezeArg::Suspend) => refused(
                "--memory saves a guest that runs: it would be held still for ever when it comes \
                 back, so --freeze does not go with it",
            ),
            _ => Ok(()),
        }
    }

    /// Returns how disks are held at one moment.
    pub fn way(&self) -> Way {
        match (self.memory, self.mode) {
            (true, _) => Way::Memory,
            (false, ModeArg::Snapshot) => Way::Snapshot,
            (false, ModeArg::Job) => Way::Job,
        }
    }

    /// Returns how the guest is held still.
    pub fn freeze(&self) -> Freeze {
        match self.freeze {
            FreezeArg::Auto => Freeze::Auto,
            FreezeArg::None => Freeze::None,
            FreezeArg::Agent => Freeze::Agent,
            FreezeArg::Suspend => Freeze::Suspend,
        }
    }

    /// Returns what is done about starts.
    pub fn offline(&self) -> Offline {
        match self.offline {
            OfflineArg::Lock => Offline::Lock,
            OfflineArg::Detect => Offline::Detect,
        }
    }

    /// Returns where scratch files go.
    pub fn scratch(&self) -> Result<ScratchOptions, CliError> {
        let min = self.scratch_min.as_deref().map(size::parse).transpose();
        Ok(ScratchOptions {
            folder: self.scratch_dir.clone(),
            min: min.map_err(CliError::Usage)?,
        })
    }

    /// Returns how hosts are read by TLS.
    pub fn tls(&self) -> Option<TlsOptions> {
        let (port, certificates) = self.nbd_port.zip(self.tls_certificates.clone())?;
        Some(TlsOptions { port, certificates })
    }
}
