//! The commands, one file each: what may be typed, and what is done about it.

mod analyze;
mod backup;
#[cfg(feature = "libvirt")]
mod cancel;
mod completions;
mod diff;
mod export;
mod find;
mod forget;
mod gc;
mod get;
#[cfg(feature = "libvirt")]
mod guard;
mod init;
#[cfg(feature = "libvirt")]
mod instant;
mod key;
mod ls;
mod man;
mod mount;
mod protect;
#[cfg(feature = "libvirt")]
mod prove;
mod prune;
#[cfg(feature = "libvirt")]
mod recover;
mod repair;
mod restore;
mod show;
mod snapshots;
mod stats;
mod umount;
mod undelete;
mod unit;
mod verify;

use anyhow::Result;
use clap::Subcommand;

use crate::context::Context;
use crate::exit::Outcome;

/// How snapshots are named, for the help of commands that take them.
const SNAPSHOT_HELP: &str = "\
SNAPSHOT is an id or its first digits (4 or more), VM (its latest), VM@latest, VM@ID, or
VM@2026-11-20T08:30 (its latest not after that; less of the time may be given, or more: times are
taken as they are printed).";

/// Returns a command's examples with how snapshots are named.
fn with_snapshots(examples: &str) -> String {
    format!("{SNAPSHOT_HELP}\n\n{examples}")
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::InitArgs),
    Backup(backup::BackupArgs),
    #[cfg(feature = "libvirt")]
    Cancel(cancel::CancelArgs),
    #[cfg(feature = "libvirt")]
    Recover(recover::RecoverArgs),
    Snapshots(snapshots::SnapshotsArgs),
    Show(show::ShowArgs),
    Restore(restore::RestoreArgs),
    #[cfg(feature = "libvirt")]
    Instant(instant::InstantArgs),
    #[cfg(feature = "libvirt")]
    Prove(prove::ProveArgs),
    Verify(verify::VerifyArgs),
    Repair(repair::RepairArgs),
    Export(export::ExportArgs),
    Mount(mount::MountArgs),
    Umount(umount::UmountArgs),
    Diff(diff::DiffArgs),
    Ls(ls::LsArgs),
    Get(get::GetArgs),
    Find(find::FindArgs),
    Stats(stats::StatsArgs),
    Forget(forget::ForgetArgs),
    Gc(gc::GcArgs),
    Prune(prune::PruneArgs),
    Undelete(undelete::UndeleteArgs),
    Protect(protect::ProtectArgs),
    Unprotect(protect::UnprotectArgs),
    Key(key::KeyArgs),
    Analyze(analyze::AnalyzeArgs),
    Unit(unit::UnitArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    #[cfg(feature = "libvirt")]
    Guard(guard::GuardArgs),
}

/// Runs a command.
pub fn run(command: &Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Init(args) => init::run(args, context),
        Command::Backup(args) => backup::run(args, context),
        #[cfg(feature = "libvirt")]
        Command::Cancel(args) => cancel::run(args, context),
        #[cfg(feature = "libvirt")]
        Command::Recover(args) => recover::run(args, context),
        Command::Snapshots(args) => snapshots::run(args, context),
        Command::Show(args) => show::run(args, context),
        Command::Restore(args) => restore::run(args, context),
        #[cfg(feature = "libvirt")]
        Command::Instant(args) => instant::run(args, context),
        #[cfg(feature = "libvirt")]
        Command::Prove(args) => prove::run(args, context),
        Command::Verify(args) => verify::run(args, context),
        Command::Repair(args) => repair::run(args, context),
        Command::Export(args) => export::run(args, context),
        Command::Mount(args) => mount::run(args, context),
        Command::Umount(args) => umount::run(args, context),
        Command::Diff(args) => diff::run(args, context),
        Command::Ls(args) => ls::run(args, context),
        Command::Get(args) => get::run(args, context),
        Command::Find(args) => find::run(args, context),
        Command::Stats(args) => stats::run(args, context),
        Command::Forget(args) => forget::run(args, context),
        Command::Gc(args) => gc::run(args, context),
        Command::Prune(args) => prune::run(args, context),
        Command::Undelete(args) => undelete::run(args, context),
        Command::Protect(args) => protect::protect(args, context),
        Command::Unprotect(args) => protect::unprotect(args, context),
        Command::Key(args) => key::run(args, context),
        Command::Analyze(args) => analyze::run(args, context),
        Command::Unit(args) => unit::run(args, context),
        Command::Completions(args) => completions::run(args, context),
        Command::Man(args) => man::run(args, context),
        #[cfg(feature = "libvirt")]
        Command::Guard(args) => guard::run(args),
    }
}
