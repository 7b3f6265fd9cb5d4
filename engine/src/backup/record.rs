//! What the manifest says of a backup, and of the disks and files that were read.

use jiff::Timestamp;

use super::pipeline::DiskDone;
use super::request::{BackupRequest, DiskRequest, FileRequest};
use crate::format::Unknown;
use crate::format::manifest::{DiskMode, DiskRecord, FileRecord, MANIFEST_VERSION, Manifest};
use crate::repository::host_name;

pub(super) fn manifest(
    request: BackupRequest,
    disks: Vec<DiskRecord>,
    files: Vec<FileRecord>,
    time: Timestamp,
    ordinal: u64,
) -> Manifest {
    let is_incremental = disks.iter().any(|disk| disk.mode == DiskMode::Incremental);
    let parent = request.parent.filter(|_| is_incremental);
    Manifest {
        version: MANIFEST_VERSION,
        vm: request.vm,
        time,
        ordinal,
        parent: parent.map(|parent| parent.id),
        host: host_name(),
        program: concat!("cairn ", env!("CARGO_PKG_VERSION")).to_owned(),
        tags: request.tags,
        disks,
        metadata: request.metadata,
        files,
        domain: request.domain,
        unknown: Unknown::new(),
    }
}

pub(super) fn file(wanted: &FileRequest, done: &DiskDone) -> FileRecord {
    FileRecord {
        name: wanted.name.clone(),
        size: wanted.source.size(),
        recipe: done.root.id,
        data_bytes: done.root.data_bytes,
        chunks: done.root.chunk_count,
        unknown: Unknown::new(),
    }
}

pub(super) fn disk(
    wanted: &DiskRequest,
    mode: DiskMode,
    doubt: Option<String>,
    done: &DiskDone,
) -> DiskRecord {
    let DiskDone {
        root,
        stats,
        stored_bytes,
    } = done;
    DiskRecord {
        target: wanted.target.clone(),
        size: wanted.source.size(),
        recipe: root.id,
        data_bytes: root.data_bytes,
        chunks: root.chunk_count,
        mode,
        source: wanted.record.clone(),
        read_bytes: stats.source_bytes + stats.parent_bytes,
        dirty_bytes: stats.dirty_bytes,
        reused_bytes: root.data_bytes.saturating_sub(stats.new_bytes),
        new_chunks: stats.new_chunks,
        new_bytes: stats.new_bytes,
        stored_bytes: *stored_bytes,
        identity: wanted.identity.clone(),
        doubt,
        torn: None,
        unknown: Unknown::new(),
    }
}
