//! The loop by which the library answers and asks for signs of life: a daemon that hangs ends the
//! connection instead of every call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virt::event::{
    EventTimeoutWatch, event_add_timeout, event_register_default_impl, event_run_default_impl,
};

use crate::threads::Joined;

/// The library has one loop in a process.
static LOOP: Mutex<Loop> = Mutex::new(Loop {
    users: 0,
    is_registered: false,
    running: None,
});

struct Loop {
    users: usize,
    is_registered: bool,
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: Joined,
}

/// Keeps the loop running while it lives. The last one ends it, and waits for its thread: no
/// thread is in the library when the process ends.
pub(super) struct Events(());

impl Events {
    pub(super) fn start() -> Self {
        let mut events = lock();
        events.users += 1;
        if !events.is_registered {
            virt::error::clear_error_callback();
            events.is_registered = event_register_default_impl().is_ok();
        }
        if events.is_registered && events.running.is_none() {
            // Without the thread there is no keep-alive; all else works.
            events.running = run().ok();
        }
        Self(())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Held to the end: there must not be two loops at once.
        let mut events = lock();
        events.users -= 1;
        if events.users > 0 {
            return;
        }
        let Some(Running { stop, thread }) = events.running.take() else {
            return;
        };
        stop.store(true, Ordering::SeqCst);
        match wake() {
            true => drop(thread),
            // It would wait for what does not come. With no connection left there is nothing that
            // it could be woken by.
            false => thread.let_run_on(),
        }
    }
}

fn lock() -> MutexGuard<'static, Loop> {
    LOOP.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run() -> std::io::Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let looping =
        move || while !asked.load(Ordering::SeqCst) && event_run_default_impl().is_ok() {};
    let thread = Joined::start("libvirt", looping)?;
    Ok(Running { stop, thread })
}

/// Has the loop go round once: by a timer that is due, and that removes itself.
fn wake() -> bool {
    let due = |timer, _| drop(EventTimeoutWatch(timer).event_remove_timeout());
    event_add_timeout(0, due, std::ptr::null_mut()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::Connection;

    /// The library's own driver for tests needs no daemon.
    const URI: &str = "test:///default";
    /// Other tests of this process have connections too, for a while.
    const SOON: Duration = Duration::from_secs(60);

    fn loops() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has it");
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        let names = tasks.filter_map(|task| name(task.ok()?).ok());
        names.filter(|name| name.trim() == "libvirt").count()
    }

    #[track_caller]
    fn comes_to(count: usize) {
        let begun = Instant::now();
        while loops() != count {
            assert!(begun.elapsed() < SOON, "{} loops", loops());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_loop_ends_with_the_last_connection_and_begins_again() {
        for _ in 0..5 {
            let first = Connection::open(Some(URI)).expect("the driver is there");
            let second = first.clone();
            let third = Connection::open(Some(URI)).expect("the driver is there");
            drop(first);
            assert_eq!(third.domains().expect("it lists").len(), 1);
            drop(third);
            comes_to(1);
            drop(second);
            comes_to(0);
        }
    }
}
