//! What the manifest says of a disk that was read.

use super::pipeline::DiskDone;
use super::request::DiskRequest;
use crate::format::Unknown;
use crate::format::manifest::{DiskMode, DiskRecord};

pub(super) fn record(wanted: &DiskRequest, mode: DiskMode, done: &DiskDone) -> DiskRecord {
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
        unknown: Unknown::new(),
    }
}
