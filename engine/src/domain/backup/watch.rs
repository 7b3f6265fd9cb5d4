//! Watches a job while its disks are read: scratch space, the domain's state, the job itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, after, bounded};

use super::scratch::Scratch;
use crate::domain::DomainError;
use crate::progress::Cancel;
use crate::source::libvirt::{Domain, DomainState};
use crate::threads::Joined;

/// How soon the user's wish to stop is passed on.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at the domain: together a second.
const LOOK_TICKS: u32 = 10;

/// How long to wait before a domain goes on that was paused by I/O errors. QEMU tells of the second
/// one a second later, and libvirt, which hears of it when the guest runs again, would take it for
/// paused from then on and could not be talked out of that.
const PAUSE_SETTLES: Duration = Duration::from_millis(1500);

/// Why a job is worthless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The domain stopped.
    Off,
    /// Something else, in words.
    Other(String),
}

/// Looks at a domain once.
pub(super) type Look = fn(&Domain) -> Option<Trouble>;

/// A thread that watches; ends when dropped.
pub(super) struct Watch {
    trouble: Arc<Mutex<Option<Trouble>>>,
    end: Option<Sender<()>>,
    thread: Option<Joined>,
    domain: String,
}

impl Watch {
    /// Begins to watch. `user` asks to stop; `stop` is set then, and when there is trouble.
    pub(super) fn start(
        look: Look,
        domain: Domain,
        scratch: Scratch,
        user: Cancel,
        stop: Cancel,
    ) -> std::io::Result<Self> {
        let trouble = Arc::new(Mutex::new(None));
        let (end, ended) = bounded::<()>(0);
        let name = domain.name().to_owned();
        let found = Arc::clone(&trouble);
        let watching = move || {
            let mut ticks = 0_u32;
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                ticks = ticks.wrapping_add(1);
                if user.is_cancelled() {
                    stop.cancel();
                }
                if !ticks.is_multiple_of(LOOK_TICKS) {
                    continue;
                }
                let seen = scratch
                    .shortage()
                    .map(Trouble::Other)
                    .or_else(|| look(&domain));
                if let Some(seen) = seen {
                    *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
                    stop.cancel();
                }
            }
        };
        let thread = Joined::start("watch", watching)?;
        Ok(Self {
            trouble,
            end: Some(end),
            thread: Some(thread),
            domain: name,
        })
    }

    /// Returns what was seen.
    pub(super) fn trouble(&self) -> Option<DomainError> {
        let seen = self
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        Some(match seen {
            Trouble::Off => DomainError::Off {
                domain: self.domain.clone(),
            },
            Trouble::Other(reason) => DomainError::GivenUp { reason },
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        drop(self.thread.take());
    }
}

/// Lets a domain go on that is paused by an I/O error: it was not when its job began, and what
/// caused it is gone with the job. Returns what went wrong with that.
pub(super) fn go_on_after_io_error(domain: &Domain) -> Option<String> {
    if domain.state().ok() != Some(DomainState::PausedByIoError) {
        return None;
    }
    let _now = after(PAUSE_SETTLES).recv();
    domain.resume().err().map(|error| error.to_string())
}

/// Looks at the domain once, and calls a pause by an I/O error trouble.
pub(super) fn look(domain: &Domain) -> Option<Trouble> {
    look_for_pause(domain).or_else(|| look_at_paused(domain))
}

/// Returns the trouble of a domain that is paused by an I/O error.
pub(super) fn look_for_pause(domain: &Domain) -> Option<Trouble> {
    let is_paused = domain.state().ok() == Some(DomainState::PausedByIoError);
    is_paused.then(|| {
        let text = "the domain was paused by an I/O error while it was read";
        Trouble::Other(text.to_owned())
    })
}

/// Looks at the domain once; it may be paused. A daemon that cannot be reached tells nothing: the
/// disks are read from QEMU, and go on being read.
pub(super) fn look_at_paused(domain: &Domain) -> Option<Trouble> {
    match domain.state() {
        Ok(state) if !state.has_process() => Some(Trouble::Off),
        Ok(_) => match domain.backup_xml() {
            Ok(None) => Some(Trouble::Other(
                "its backup job was ended by someone else".to_owned(),
            )),
            _ => None,
        },
        Err(error) if error.is_disconnected() => {
            drop(domain.connection().revive());
            None
        }
        Err(_) => None,
    }
}
