//! A backup's peak memory does not grow with the disk.

use cairn_engine::limits::BLOCK_LEN;
use cairn_engine::progress::Cancel;

use crate::support::computed::{Computed, DATA_EVERY};
use crate::support::{TestRepository, backup_source, child};

const SMALL_LEN: u64 = 1 << 30;
/// What may be more by chance: buffers of the allocator and of the index.
const SLACK_KIB: u64 = 24 * 1024;
/// What no backup may take.
const PEAK_MAX_KIB: u64 = 300 * 1024;

/// Not a test: a process that `peak_memory_does_not_grow_with_the_disk` starts.
#[test]
fn one_backup() {
    let Some(told) = child::told() else { return };
    let size = told
        .to_str()
        .and_then(|text| text.parse().ok())
        .expect("the parent gives a size");
    // With parity, which reads every pack back.
    let repository = TestRepository::with(None, |settings| settings.parity_percent = Some(5));
    let source = Box::new(Computed { size });
    let done = backup_source(&repository.open(), source, false, None, &Cancel::default());
    let done = done.expect("backs up");
    assert!(done.manifest.disks[0].new_bytes > size / DATA_EVERY - BLOCK_LEN);
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
    eprintln!("{}", peak.expect("Linux tells the peak"));
}

/// Returns the peak memory, in KiB, of a process that backs up a disk of this size.
fn peak_kib(size: u64) -> u64 {
    let started = child::start("memory_bound::one_backup", size.to_string().as_ref());
    let text = child::finish(started);
    let line = text.lines().find_map(|line| line.split("VmHWM:").nth(1));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the child prints its peak")
}

#[test]
fn peak_memory_does_not_grow_with_the_disk() {
    let (small, large) = (peak_kib(SMALL_LEN), peak_kib(10 * SMALL_LEN));
    eprintln!("peak memory: {small} KiB, {large} KiB");
    assert!(large <= small + SLACK_KIB, "{small} KiB became {large} KiB");
    assert!(large <= PEAK_MAX_KIB, "{large} KiB");
}
