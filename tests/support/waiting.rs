//! Waiting for what comes by itself, however busy the machine is.

use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for anything. Only one that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How long to wait before the next look.
const STEP: Duration = Duration::from_millis(5);

/// Waits until something is so.
#[track_caller]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let look = || if is_so() { Ok(()) } else { Err("") };
    if attempts(look).is_err() {
        panic!("never: {what}");
    }
}

/// Tries until it works; the error is that of the last time.
pub fn attempts<T, E>(mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        let result = attempt();
        if result.is_ok() || begun.elapsed() >= PATIENCE {
            return result;
        }
        // sleeps: between two looks, of which there are as many as it takes.
        thread::sleep(STEP);
    }
}
