//! `cairn mount`: the file systems in a snapshot's disks.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process;

use anyhow::{Context as _, Result};
use cairn_engine::id::SnapshotId;
use cairn_engine::repository::Access;
use clap_complete::engine::ArgValueCompleter;
use rustix::process::geteuid;

use crate::complete;
use crate::context::Context;
use crate::exit::Outcome;
use crate::mount::error::MountError;
use crate::mount::serve::{Events, MountOptions, Mounted};
use crate::mount::{background, disks, place};
use crate::output::mount::{MountLine, MountReport, SkippedLine};
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn mount web1 /mnt/web1                 every file system of the latest snapshot
  cairn mount web1@2026-11-20:vda /mnt/web1  those of one disk
  cairn mount 3f2a9c:vdap2 /mnt/root         one partition
  cairn mount web1 /mnt/web1 --background    return when it is ready; `cairn umount` ends it

Each file system is mounted below DIR: as DIR/p1 and so on for the partitions of one disk, as
DIR/vdap1 for those of several, as DIR/vda for a disk without partitions, as DIR/GROUP-VOLUME for
logical volumes. Everything is read-only. Stays until Ctrl-C or `cairn umount DIR`.

Only root can mount, and only root gets into DIR, unless --allow-other is given. `cairn get`
fetches single files without root.";

/// Mount the file systems in a snapshot's disks
///
/// A file system that was in use when the snapshot was made is brought to rest first, as after a
/// power cut, in a private layer: the snapshot never changes.
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
pub struct MountArgs {
    /// SNAPSHOT, SNAPSHOT:TARGET, SNAPSHOT:TARGETpN or SNAPSHOT:TARGET:GROUP/VOLUME
    #[arg(value_name = "PLACE")]
    #[arg(add = ArgValueCompleter::new(complete::places))]
    pub place: OsString,

    /// Folder to mount at
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// Replay no journal: show file systems as they stand on the disk, half-done changes and all
    #[arg(long)]
    pub no_replay: bool,

    /// Let other users in, as far as the guest's modes and numeric owners let them
    ///
    /// A guest's user 1000 is then taken for this machine's user 1000.
    #[arg(long)]
    pub allow_other: bool,

    /// Return when everything is mounted, and serve it in the background
    #[arg(short = 'd', long)]
    pub background: bool,
}

/// Runs the command.
pub fn run(args: &MountArgs, context: &Context) -> Result<Outcome> {
    if !geteuid().is_root() {
        return Err(MountError::NotRoot.into());
    }
    let stays = args.background && background::is_the_one_that_stays();
    if args.background && !stays {
        // Its errors, its hints and its remarks were said by the process that stays, or ended. This
        // one has opened nothing and has no threads.
        process::exit(background::start()?.into());
    }
    let directory = place::to_mount_at(&args.directory)?;
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let (snapshot, selection) = disks::select(&snapshots, &args.place)?;
    let id = snapshot.id;
    let access = Access::Read(vec![id]);
    let contents = session::contents(context, &repository, access, "mount")?;
    let events = Events::install().context("cannot handle signals")?;
    let volumes = disks::open(contents, snapshot, selection.as_ref(), !args.no_replay)?;
    let options = MountOptions {
        directory,
        allow_other: args.allow_other,
        replay: !args.no_replay,
        threads: context.threads().get(),
    };
    let mounted = Mounted::start(volumes, &options, events)?;
    let outcome = match mounted.skipped.iter().any(|skipped| skipped.is_failure) {
        true => Outcome::Problems,
        false => Outcome::Done,
    };
    context.report(&report(id, &mounted, options.directory))?;
    if stays {
        background::ready(outcome)?;
    } else {
        context.remark("ready; Ctrl-C or `cairn umount` ends it");
    }
    mounted.run_until_end(&mut |text| context.warn(text))?;
    Ok(outcome)
}

fn report(snapshot: SnapshotId, mounted: &Mounted, directory: PathBuf) -> MountReport {
    let mounts = mounted.volumes.iter().map(|volume| MountLine {
        volume: volume.volume.clone(),
        kind: volume.kind.clone(),
        directory: volume.directory.clone(),
    });
    let skipped = mounted.skipped.iter().map(|skipped| SkippedLine {
        volume: skipped.volume.clone(),
        kind: skipped.kind.clone(),
        reason: skipped.reason.clone(),
    });
    MountReport {
        snapshot,
        directory,
        pid: process::id(),
        mounts: mounts.collect(),
        skipped: skipped.collect(),
    }
}
