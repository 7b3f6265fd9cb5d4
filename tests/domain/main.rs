//! Live domains: a libvirtd and QEMU processes of the tests' own, see `tests/lab/lab.sh`.

#[allow(
    dead_code,
    reason = "these tests need a part of what the command line's do"
)]
#[path = "../cli/world.rs"]
mod world;

#[allow(dead_code, reason = "these tests mount what a lab sees")]
#[path = "../support/mounts.rs"]
mod mounts;
#[path = "../support/waiting.rs"]
mod waiting;

mod lab;

mod fleet;
mod harness;
mod hooks;
mod instant;
mod live_backup;
mod live_doubts;
mod live_interrupt;
mod odd_names;
mod offline;
mod old_images;
mod overlaid;
mod pile;
mod power;
mod prove;
mod remote;
mod restore_define;
mod restore_in_place;
mod rights;
mod snapshot;
mod snapshot_mode;
