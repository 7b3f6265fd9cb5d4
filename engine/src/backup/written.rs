//! What becomes of a backup whose sources are written to while they are read.

use super::BackupError;
use super::request::{BackupRequest, IfWritten};
use crate::format::manifest::DiskRecord;
use crate::source::Source;

/// Returns all sources with the names of their disks and files, disks first.
fn sources(request: &BackupRequest) -> impl Iterator<Item = (&String, &dyn Source)> {
    let disks = request.disks.iter();
    let disks = disks.map(|disk| (&disk.target, &*disk.source));
    let files = request.files.iter();
    disks.chain(files.map(|file| (&file.name, &*file.source)))
}

/// Sees to it that what is written from now on is seen.
pub(super) fn settle(request: &BackupRequest, if_written: IfWritten) {
    if if_written != IfWritten::NotAsked {
        sources(request).for_each(|(_, source)| source.settle());
    }
}

/// Returns what to say of a failure: a file that became shorter, or an image whose tables changed,
/// fails to be read.
pub(super) fn reason(
    request: &BackupRequest,
    if_written: IfWritten,
    error: BackupError,
) -> BackupError {
    let is_asked = if_written == IfWritten::Refuse;
    if !is_asked || !matches!(error, BackupError::Source { .. }) {
        return error;
    }
    refuse_all(request).err().unwrap_or(error)
}

fn refuse_all(request: &BackupRequest) -> Result<(), BackupError> {
    let mut sources = sources(request);
    sources.try_for_each(|(target, source)| refuse(target, source))
}

/// Fails where a source was written to until now.
pub(super) fn refuse(target: &str, source: &dyn Source) -> Result<(), BackupError> {
    source.written().map_or(Ok(()), |what| {
        let target = target.to_owned();
        Err(BackupError::Written { target, what })
    })
}

/// Marks the disks that were written to until now, or fails for them.
pub(super) fn mark(
    request: &BackupRequest,
    if_written: IfWritten,
    records: &mut [DiskRecord],
) -> Result<(), BackupError> {
    match if_written {
        IfWritten::NotAsked => {}
        IfWritten::Refuse => refuse_all(request)?,
        IfWritten::Mark => {
            for (disk, record) in request.disks.iter().zip(records) {
                record.torn = disk.source.written();
            }
        }
    }
    Ok(())
}
