//! Block status: what contexts tell about a range.

use std::ops::Range;
use std::time::{Duration, Instant};

use cairn_engine::extent::ExtentStatus;
use cairn_engine::id::SnapshotId;
use cairn_engine::nbd::wire::{StatusRun, state};

use crate::context::Context;
use crate::disk::DiskError;
use crate::exports::Export;

/// How much of a disk is asked about at once, at first and at most. A client with extended
/// headers may ask about all of it, and an answer that stops early is allowed.
const WINDOW_LEN: u64 = 64 << 20;
const WINDOW_LEN_MAX: u64 = 1 << 30;
/// Differences are told in multiples of this: they begin and end at any byte, but there are clients
/// that copy whole sectors, or whole blocks of a file system.
const DIFFERENCE_UNIT: u64 = 4096;
/// Time after which an answer stops at what it has.
const PATIENCE: Duration = Duration::from_millis(250);

/// Returns the status of the front of a range: `runs_max` runs or fewer, one at least, none of
/// them like the one before it.
pub(super) fn runs(
    export: &Export,
    context: Context,
    range: Range<u64>,
    runs_max: usize,
) -> Result<Vec<StatusRun>, DiskError> {
    let began = Instant::now();
    let mut runs: Vec<StatusRun> = Vec::new();
    let (mut at, mut window) = (range.start, WINDOW_LEN);
    while at < range.end
        && runs.len() <= runs_max
        && (at == range.start || began.elapsed() < PATIENCE)
    {
        let end = range.end.min(at.saturating_add(window));
        let before = runs.len();
        match context {
            Context::Allocation => allocation(export, at..end, &mut runs)?,
            Context::Diff(base) | Context::Bitmap(base) => {
                difference(export, base, at..end, &mut runs)?;
            }
        }
        if runs.len() - before < 64 {
            window = (window * 2).min(WINDOW_LEN_MAX);
        }
        at = end;
    }
    runs.truncate(runs_max);
    Ok(runs)
}

fn push(runs: &mut Vec<StatusRun>, len: u64, flags: u64) {
    match runs.last_mut() {
        _ if len == 0 => {}
        Some(last) if last.flags == flags => last.len += len,
        _ => runs.push(StatusRun { len, flags }),
    }
}

fn allocation(
    export: &Export,
    range: Range<u64>,
    runs: &mut Vec<StatusRun>,
) -> Result<(), DiskError> {
    for extent in export.disk.extents(range)? {
        let flags = match extent.status {
            ExtentStatus::Zero => state::HOLE | state::ZERO,
            ExtentStatus::Data | ExtentStatus::Unchanged => 0,
        };
        push(runs, extent.len, flags);
    }
    Ok(())
}

fn difference(
    export: &Export,
    base: SnapshotId,
    range: Range<u64>,
    runs: &mut Vec<StatusRun>,
) -> Result<(), DiskError> {
    let changes = export.changes.as_ref().expect("the context was found");
    let dirty = changes.changed(base, range.clone())?;
    let mut at = range.start;
    for dirty in dirty {
        let start = (dirty.start - dirty.start % DIFFERENCE_UNIT).max(at);
        let end = dirty.end.next_multiple_of(DIFFERENCE_UNIT).min(range.end);
        if start < end {
            push(runs, start - at, 0);
            push(runs, end - start, state::DIRTY);
            at = end;
        }
    }
    push(runs, range.end - at, 0);
    Ok(())
}
