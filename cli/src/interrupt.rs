//! Signals: the first asks the operation to stop, a second SIGINT ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cairn_engine::progress::Cancel;
use cairn_engine::threads::Joined;
use cairn_nbd_export::stop::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

use crate::exit::Outcome;

/// Lets SIGINT, SIGTERM and SIGHUP set `cancel` from now on.
///
/// Called when the work begins, and not before: a prompt for a passphrase is best ended by the
/// signal itself.
pub fn install(cancel: &Cancel) -> io::Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    // Handlers run in the order of their registration, so the first SIGINT finds this unset. What
    // the process leaves behind when it ends here is what kill -9 leaves: nothing published. It
    // ends by `_exit`, which destroys no statics below the threads that are at work.
    let code = i32::from(Outcome::Interrupted as u8);
    flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&interrupted))?;
    flag::register(SIGINT, interrupted)?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, cancel.flag())?;
    }
    Ok(())
}

/// A thread that waits for signals. It ends when this is dropped; signals do nothing then.
#[must_use = "it ends when it is dropped"]
pub struct Listening {
    handle: Handle,
    thread: Option<Joined>,
}

impl Listening {
    /// Calls `each` for every SIGINT, SIGTERM and SIGHUP from now on.
    pub fn start(mut each: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let listen = move || signals.forever().for_each(|_| each());
        Ok(Self {
            handle,
            thread: Some(Joined::start("signals", listen)?),
        })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.handle.close();
        drop(self.thread.take());
    }
}

/// Lets SIGINT, SIGTERM and SIGHUP stop a server from now on. That is how it is meant to end; only
/// a second SIGINT ends the process at once.
pub fn stop_on_signals(stop: &Stop) -> io::Result<Listening> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let code = i32::from(Outcome::Interrupted as u8);
    flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&interrupted))?;
    flag::register(SIGINT, interrupted)?;
    let stop = stop.clone();
    Listening::start(move || stop.stop())
}

/// Lets SIGINT, SIGTERM and SIGHUP do nothing from now on: the process ends by what it waits for.
#[cfg(feature = "libvirt")]
pub fn ignore() -> io::Result<()> {
    let nobody = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(&nobody))?;
    }
    Ok(())
}
