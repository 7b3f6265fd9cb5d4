//! Signals: the first asks the operation to stop, a second SIGINT ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use cairn_engine::progress::Cancel;
use cairn_nbd_export::stop::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::exit::Outcome;

/// Lets SIGINT, SIGTERM and SIGHUP set `cancel` from now on.
///
/// Called when the work begins, and not before: a prompt for a passphrase is best ended by the
/// signal itself.
pub fn install(cancel: &Cancel) -> io::Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    // Handlers run in the order of their registration, so the first SIGINT finds this unset. What
    // the process leaves behind when it ends here is what kill -9 leaves: nothing published.
    let code = i32::from(Outcome::Interrupted as u8);
    flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&interrupted))?;
    flag::register(SIGINT, interrupted)?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, cancel.flag())?;
    }
    Ok(())
}

/// Lets SIGINT, SIGTERM and SIGHUP stop a server from now on. That is how it is meant to end; only
/// a second SIGINT ends the process at once.
pub fn stop_on_signals(stop: &Stop) -> io::Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let code = i32::from(Outcome::Interrupted as u8);
    flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&interrupted))?;
    flag::register(SIGINT, interrupted)?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let stop = stop.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(|_| stop.stop()))?;
    Ok(())
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
