//! Instant restores: the processes that serve and watch, and what starts them.

mod begin;
mod exporter;
mod places;
mod watcher;

pub use begin::{Begin, begin, group_of_qemu};
pub use exporter::ExportProcess;
pub use places::{Places, StateArgs};
pub use watcher::{finish, start_watcher, stop_watcher, watch};
