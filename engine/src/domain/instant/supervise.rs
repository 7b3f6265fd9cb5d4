//! Watches over an instant restore until its disks are whole.

use std::io;
use std::time::Duration;

use super::pull::{self, Step};
use super::record::{Record, StateFolder};
use crate::domain::DomainError;
use crate::progress::Cancel;
use crate::source::libvirt::{Connection, LibvirtError};

/// Time between two looks. A killed export is back after about as long.
const PERIOD: Duration = Duration::from_millis(500);

/// Serves the snapshot's disks, in a process of its own.
pub trait Exporter {
    /// Returns whether it serves.
    fn is_alive(&mut self) -> bool;

    /// Starts it.
    fn start(&mut self) -> io::Result<()>;
}

/// How watching ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervision {
    /// The disks are whole, and the export can go.
    Whole,
    /// Someone asked to stop; the export goes on.
    Cancelled,
}

/// Keeps the export alive and the disks pulled, until they are whole; `say` is told what changes.
///
/// Errors are said and everything is tried again: libvirt's daemon and the domain may come back.
pub fn supervise(
    exporter: &mut dyn Exporter,
    states: &StateFolder,
    mut record: Record,
    cancel: &Cancel,
    say: &mut dyn FnMut(&str),
) -> Result<Supervision, DomainError> {
    let mut connection: Option<Connection> = None;
    let mut said = String::new();
    while !cancel.is_cancelled() {
        let step = look(exporter, &mut connection, &record);
        if !record.is_defined && matches!(step, Ok(Step::Off | Step::Pulling)) {
            // From here on a domain that does not need the export is one that needed it.
            record.is_defined = true;
            states.save(&record)?;
        }
        let text = match step {
            Ok(Step::Gone | Step::Whole) if !record.is_defined => {
                "the domain is about to be defined".to_owned()
            }
            Ok(Step::Whole) => {
                say("the disks are whole");
                return Ok(Supervision::Whole);
            }
            Ok(Step::Gone) => "libvirt knows the domain no more".to_owned(),
            Ok(Step::Off) => "the domain is off; its disks are not whole".to_owned(),
            Ok(Step::Pulling) => "the disks are being pulled".to_owned(),
            Err(error) => error,
        };
        if text != said {
            say(&text);
            said = text;
        }
        // Nobody sends: it is a wait with an end.
        let _ = crossbeam_channel::after(PERIOD).recv();
    }
    Ok(Supervision::Cancelled)
}

fn look(
    exporter: &mut dyn Exporter,
    connection: &mut Option<Connection>,
    record: &Record,
) -> Result<Step, String> {
    if !exporter.is_alive() {
        let started = exporter.start();
        started.map_err(|error| format!("the export cannot be started: {error}"))?;
    }
    let held = match connection.take() {
        Some(held) => held.revive().map(|()| held),
        None => Connection::open(Some(&record.uri)),
    };
    let held: &Connection = connection.insert(held.map_err(|error: LibvirtError| line(&error))?);
    pull::step(held, record).map_err(|error| line(&error))
}

/// Joins an error and its causes.
fn line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
