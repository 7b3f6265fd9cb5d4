//! What commands print: one report for each, as text and as JSON.

pub mod plot;
pub mod progress;
pub mod size;
pub mod table;
pub mod terminal;
pub mod time;

pub mod analyze;
pub mod backup;
pub mod diff;
#[cfg(feature = "libvirt")]
pub mod domain;
pub mod export;
pub mod failures;
pub mod forget;
pub mod gc;
pub mod get;
#[cfg(feature = "libvirt")]
pub mod in_place;
pub mod init;
#[cfg(feature = "libvirt")]
pub mod instant;
pub mod key;
pub mod layout;
pub mod listing;
pub mod marks;
pub mod mount;
#[cfg(feature = "libvirt")]
pub mod prove;
pub mod prune;
pub mod repair;
pub mod resting;
pub mod restore;
pub mod snapshots;
pub mod stats;
pub mod unit;
pub mod verify;

use std::io::{self, Write};

/// A command's result. Its serialised form is the JSON document, whose fields are stable.
pub trait Report: serde::Serialize {
    /// Writes the result as people read it.
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()>;
}
