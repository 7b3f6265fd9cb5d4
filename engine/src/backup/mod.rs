//! Backup: reads disks, stores what is new, and publishes a snapshot.
//!
//! The commit point is the manifest: it is written last, after every pack that it refers to is
//! durable. An incremental gives the same recipe as a full backup of the same bytes.

mod audit;
mod bytes;
mod disk;
mod error;
mod parent;
mod pipeline;
mod record;
mod region;
mod request;
mod slots;
mod take_in;
mod written;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

pub use error::BackupError;
pub use request::{
    BackupDone, BackupOptions, BackupRequest, BeforePublish, DiskRequest, Doubt, FileRequest,
    IfWritten, Warning,
};

use crate::format::FormatError;
use crate::format::domain::DomainRecord;
use crate::format::manifest::{check_file_name, check_name};
use crate::progress::Progress;
use crate::repository::{Access, Contents, Intake, Repository};
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
    let disks = request.disks.iter().map(|disk| &disk.source);
    for source in disks.chain(request.files.iter().map(|file| &file.source)) {
        Progress::add(&options.progress.total_bytes, source.size());
    }
    written::settle(&request, options.if_written);
    // What the disks show is as of now at the earliest, and nothing later is promised.
    let time = request.time.unwrap_or_else(Timestamp::now);
    let intake = Intake::start(&contents)?;
    let taken = TakeIn {
        contents: &contents,
        intake: &intake,
        request: &request,
        threads: options.threads,
        audit_percent: options.audit_percent,
        if_written: options.if_written,
        progress: options.progress,
        cancel: options.cancel,
    }
    .all();
    let (mut taken, stored) = match taken {
        Ok(taken) => (taken, intake.finish()?),
        // A worker that could not hand a frame over knows less than the thread that failed.
        Err(error) if error.is_consequence() => return Err(intake.failure().into()),
        Err(error) => return Err(written::reason(&request, options.if_written, error)),
    };
    if options.cancel.is_cancelled() {
        return Err(BackupError::Cancelled);
    }
    // Late, so that whatever was published meanwhile comes before.
    let ordinal = repository.next_ordinal(&request.vm)?;
    if let Some(check) = options.before_publish {
        check().map_err(|reason| BackupError::Withdrawn { reason })?;
    }
    written::mark(&request, options.if_written, &mut taken.disks)?;
    let manifest = record::manifest(request, taken.disks, taken.files, time, ordinal);
    let snapshot = repository.publish(contents.session(), &manifest)?;
    for (root, mut needs) in taken.needs {
        needs.extend(&stored.needs);
        repository.remember_needs(root, &needs);
    }
    Ok(BackupDone {
        snapshot,
        manifest,
        stored,
        warnings: taken.warnings,
    })
}

/// Refuses what no manifest could say, before anything is read.
fn check(request: &BackupRequest) -> Result<(), BackupError> {
    let names = |request: &BackupRequest| {
        check_name(&request.vm)?;
        for disk in &request.disks {
            check_name(&disk.target)?;
        }
        for file in &request.files {
            check_file_name(&file.name)?;
        }
        request.domain.as_ref().map_or(Ok(()), DomainRecord::check)
    };
    names(request).map_err(BackupError::Manifest)?;
    let (mut targets, mut names) = (BTreeSet::new(), BTreeSet::new());
    let rule = if !request
        .disks
        .iter()
        .all(|disk| targets.insert(&disk.target))
    {
        "the targets of a manifest must differ"
    } else if !request.files.iter().all(|file| names.insert(&file.name)) {
        "the names of a manifest's files must differ"
    } else {
        return Ok(());
    };
    Err(BackupError::Manifest(FormatError::Malformed { rule }))
}
