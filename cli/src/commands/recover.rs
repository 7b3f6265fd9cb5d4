//! `cairn recover`: clears up after backups of a domain, and after proofs, that were killed.

use std::path::Path;

use anyhow::Result;
use cairn_engine::domain::lock::DomainLock;
use cairn_engine::domain::{in_place, prove, recover};

use super::prove::DIR_DEFAULT;
use crate::context::Context;
use crate::exit::Outcome;
use crate::libvirt::ConnectArgs;
use crate::output::domain::RecoverReport;

const EXAMPLES: &str = "\
Examples:
  cairn recover web1

The next backup of the domain does the same first. Only what Cairn's own dead runs left is touched:
a frozen guest is thawed, their job ended, their scratch files and checkpoints removed, their
overlays committed back. What a restore in place had ready is written to the disks, and what it had
not is removed. What proofs of any snapshot left is removed too.";

/// Clear up after backups and restores of a domain that were killed
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RecoverArgs {
    /// Name or UUID of the domain
    pub domain: String,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs the command.
pub fn run(args: &RecoverArgs, context: &Context) -> Result<Outcome> {
    let domain = args.connect.domain(&args.domain)?;
    let folder = args.connect.run_folder()?;
    let _lock = DomainLock::take(&folder, domain.name(), domain.uuid())?;
    let say = |text: &str| context.remark(text);
    let recovered = recover::recover(&domain, &folder, &say)?;
    let in_place = in_place::recover(&domain, &say)?;
    let dir = Path::new(DIR_DEFAULT);
    let proofs = prove::sweep(&folder, dir, domain.connection(), &say);
    context.report(&RecoverReport {
        domain: domain.name().to_owned(),
        runs: recovered.runs,
        refused: recovered.refused,
        in_place,
        proofs,
    })?;
    Ok(match recovered.refused {
        0 => Outcome::Done,
        _ => Outcome::Problems,
    })
}
