//! Backup: reads disks, stores what is new, and publishes a snapshot.
//!
//! The commit point is the manifest: it is written last, after every pack that it refers to is
//! durable. An incremental gives the same recipe as a full backup of the same bytes.

mod audit;
mod bytes;
mod disk;
mod error;
mod pipeline;
mod record;
mod region;
mod request;
mod slots;
mod take_in;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

pub use error::BackupError;
pub use request::{
    BackupDone, BackupOptions, BackupRequest, BeforePublish, DiskRequest, Doubt, Warning,
};

use crate::format::manifest::{DiskMode, MANIFEST_VERSION, Manifest, check_name};
use crate::format::{FormatError, Unknown};
use crate::progress::Progress;
use crate::repository::{Access, Contents, Intake, Repository, host_name};
use take_in::TakeIn;

/// Makes a snapshot.
///
/// # Errors
///
/// Whatever the failure, no snapshot is published. Packs that were finished stay, and the next
/// run finds their contents.
///
/// # Durability
///
/// Durable on return.
pub fn backup(
    repository: &Arc<Repository>,
    request: BackupRequest,
    options: &BackupOptions<'_>,
) -> Result<BackupDone, BackupError> {
    check(&request)?;
    let contents = Arc::new(Contents::open(repository, Access::Write, "backup")?);
    if let Some(parent) = &request.parent {
        repository.check_live(parent.id)?;
    }
    for disk in &request.disks {
        Progress::add(&options.progress.total_bytes, disk.source.size());
    }
    // What the disks show is as of now at the earliest, and nothing later is promised.
    let time = Timestamp::now();
    let intake = Intake::start(&contents)?;
    let taken = TakeIn {
        contents: &contents,
        intake: &intake,
        request: &request,
        threads: options.threads,
        audit_percent: options.audit_percent,
        progress: options.progress,
        cancel: options.cancel,
    }
    .all();
    let (taken, stored) = match taken {
        Ok(taken) => (taken, intake.finish()?),
        // A worker that could not hand a frame over knows less than the thread that failed.
        Err(error) if error.is_consequence() => return Err(intake.failure().into()),
        Err(error) => return Err(error),
    };
    if options.cancel.is_cancelled() {
        return Err(BackupError::Cancelled);
    }
    if let Some(check) = options.before_publish {
        check().map_err(|reason| BackupError::Withdrawn { reason })?;
    }
    let is_incremental = taken
        .disks
        .iter()
        .any(|disk| disk.mode == DiskMode::Incremental);
    let parent = request
        .parent
        .as_ref()
        .filter(|_| is_incremental)
        .map(|parent| parent.id);
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        vm: request.vm,
        time,
        parent,
        host: host_name(),
        program: concat!("cairn ", env!("CARGO_PKG_VERSION")).to_owned(),
        tags: request.tags,
        disks: taken.disks,
        metadata: request.metadata,
        unknown: Unknown::new(),
    };
    let snapshot = repository.publish(contents.session(), &manifest)?;
    Ok(BackupDone {
        snapshot,
        manifest,
        stored,
        warnings: taken.warnings,
    })
}

/// Refuses what no manifest could say, before anything is read.
fn check(request: &BackupRequest) -> Result<(), BackupError> {
    let mut targets = BTreeSet::new();
    let names = request.disks.iter().map(|disk| &disk.target);
    for name in names.clone().chain([&request.vm]) {
        check_name(name).map_err(BackupError::Manifest)?;
    }
    for target in names {
        if !targets.insert(target) {
            let rule = "the targets of a manifest must differ";
            return Err(BackupError::Manifest(FormatError::Malformed { rule }));
        }
    }
    Ok(())
}
