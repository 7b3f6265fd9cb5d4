//! Signals: the first asks the operation to stop, a second SIGINT ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cairn_engine::progress::Cancel;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

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
