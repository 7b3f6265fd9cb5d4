//! What a collection is asked to do, and what it says of itself.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::id::{PackId, SessionId, SnapshotId};
use crate::printable;
use crate::progress::{Cancel, Progress};
use crate::repository::grace::Grace;
use crate::source::RateLimit;

/// What a collection is asked to do.
pub struct GcOptions<'o> {
    /// How long forgotten snapshots rest before they are taken.
    pub grace: Grace,
    /// What is now, for that and for nothing else.
    pub now: Timestamp,
    /// Percent of what is stored that may be dead and stay: repacking it would write too much.
    pub max_unused: f64,
    /// How long to wait for writers; `None` for as long as they take.
    pub wait: Option<Duration>,
    /// Whether to go on where chunks that snapshots need are in no pack: those are lost already.
    pub despite_missing: bool,
    /// Bytes of memory for sorting; the rest goes to `temp`.
    pub memory: u64,
    /// A folder for temporary files; `None` for the session's own.
    pub temp: Option<PathBuf>,
    /// Threads that read and decode; at least 1.
    pub threads: usize,
    /// How fast packs are read that are to be repacked.
    pub limit: Option<&'o RateLimit>,
    /// Where counters go.
    pub progress: &'o Progress,
    /// Asked often.
    pub cancel: &'o Cancel,
    /// Told what is being done.
    pub observe: &'o (dyn Fn(GcEvent<'_>) + Sync),
}

/// What a collection is at.
#[derive(Debug)]
#[non_exhaustive]
pub enum GcEvent<'e> {
    /// All recipes were walked.
    Marked {
        /// Distinct nodes read.
        nodes: u64,
        /// How long that took.
        took: Duration,
    },
    /// Packs are being repacked.
    Repacking {
        /// Packs to read.
        packs: u64,
        /// Stored bytes in them that live.
        bytes: u64,
    },
    /// It waits for these writers.
    Waiting(&'e [Waiting]),
    /// Packs and manifests are being deleted.
    Deleting {
        /// Packs to delete.
        packs: u64,
    },
}

/// A writer that a collection waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its session.
    pub session: SessionId,
    /// What it says it does; `None` where it cannot be understood.
    pub command: Option<String>,
    /// Its host.
    pub host: Option<String>,
    /// Its process there.
    pub pid: Option<u32>,
    /// When it began.
    pub started: Option<Timestamp>,
    /// Whether it is a stopped process of this host, which will not end by itself.
    pub is_stopped: bool,
}

/// For people: what it does, where, or at least which session it is.
impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = self.command.as_deref().unwrap_or("something unknown");
        match (&self.host, self.pid) {
            (Some(host), Some(pid)) => {
                // A session's file may hold anything.
                let (command, host) = (printable::text(command), printable::text(host));
                write!(f, "`{command}` (process {pid} on {host})")
            }
            _ => write!(f, "session {}", self.session),
        }
    }
}

/// What a collection did. Bytes are stored bytes.
#[derive(Debug, Default)]
pub struct GcReport {
    /// Whether an earlier collection's plan was gone on with.
    pub resumed: bool,
    /// Whether a plan that could not be read was dropped.
    pub dropped_plan: bool,
    /// Snapshots whose recipes were walked.
    pub snapshots: u64,
    /// Distinct recipe nodes that were read.
    pub nodes: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Bytes in them.
    pub stored_bytes: u64,
    /// Bytes among these that nothing needs, estimated where a frame lives in part.
    pub dead_bytes: u64,
    /// Packs that were to be deleted.
    pub condemned: u64,
    /// Packs among these out of which something was, or is to be, moved.
    pub repacked: u64,
    /// Bytes that moving writes, parity included, estimated where nothing was done; else those
    /// written.
    pub written_bytes: u64,
    /// Packs written.
    pub written_packs: u64,
    /// Forgotten snapshots that were deleted, or are to be.
    pub taken: Vec<SnapshotId>,
    /// The newest snapshot, where forgotten ones rest and it is dated after now: this clock or
    /// that one is wrong, and what rests goes on resting.
    pub behind: Option<SnapshotId>,
    /// Packs deleted.
    pub deleted_packs: u64,
    /// Bytes in them and in parity that was deleted.
    pub deleted_bytes: u64,
    /// Packs that a snapshot published meanwhile needs, and that stay.
    pub rescued: u64,
    /// Packs that stay because something in them that lives is damaged, or because they cannot be
    /// read.
    pub damaged: Vec<PackId>,
    /// Chunks that snapshots need and no pack has.
    pub missing_chunks: u64,
    /// Whether the medium was too full to move anything.
    pub was_full: bool,
    /// Writers that it would have had to wait for longer.
    pub waiting_for: Vec<Waiting>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_says_of_itself_is_shown() {
        let waiting = Waiting {
            session: SessionId::from_bytes([1; 16]),
            command: Some("backup\nhint: \u{202e}".to_owned()),
            host: Some("h\u{1b}[2J".to_owned()),
            pid: Some(7),
            started: None,
            is_stopped: false,
        };
        let said = "`backup\u{fffd}hint: \u{fffd}` (process 7 on h\u{fffd}[2J)";
        assert_eq!(waiting.to_string(), said);
    }
}
