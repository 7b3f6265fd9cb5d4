//! How far an operation is: one line on stderr, redrawn while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use cairn_engine::progress::Progress;
use cairn_engine::threads::Joined;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::terminal::say;
use super::{size, time};

const REDRAW: Duration = Duration::from_millis(200);
/// Rates are averages over about this long: short enough to follow, long enough to read.
const MEMORY_S: f64 = 5.0;

/// Between two lines where nobody looks.
const LOGGED: Duration = Duration::from_secs(60);

/// Who is to see how far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Nobody.
    Never,
    /// Who sits before a terminal.
    Line,
    /// Who reads it later.
    Log,
}

/// A line that shows an operation's progress until it is dropped.
pub struct Meter {
    running: Option<(Sender<()>, Joined)>,
}

impl Meter {
    /// Begins to show `progress` after `verb`, or does nothing if it is not to be shown.
    pub fn start(verb: &'static str, progress: Arc<Progress>, shown: Shown) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = match shown {
            Shown::Never => return Self { running: None },
            Shown::Line => Joined::start("meter", move || draw(verb, &progress, &stopped)),
            Shown::Log => Joined::start("meter", move || log(verb, &progress, &stopped)),
        };
        // Without a thread to draw it there is no meter, and the work goes on.
        Self {
            running: thread.ok().map(|thread| (stop, thread)),
        }
    }
}

/// Redraws one line, cut to the terminal's width, until it is told to stop.
fn draw(verb: &str, progress: &Progress, stopped: &Receiver<()>) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_msg}");
    bar.set_style(style.expect("the template is valid"));
    let begun = Instant::now();
    let mut rates = Rates::default();
    while stopped.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
        rates.update(begun.elapsed().as_secs_f64(), &Counts::of(progress));
        bar.set_message(rates.line(verb));
        bar.tick();
    }
    bar.finish_and_clear();
}

/// Writes a line a minute until it is told to stop.
fn log(verb: &str, progress: &Progress, stopped: &Receiver<()>) {
    let begun = Instant::now();
    let mut rates = Rates::default();
    while stopped.recv_timeout(LOGGED) == Err(RecvTimeoutError::Timeout) {
        rates.update(begun.elapsed().as_secs_f64(), &Counts::of(progress));
        say(&rates.line(verb));
    }
}

impl Meter {
    /// Shows no more.
    pub fn end(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            drop(thread);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end();
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    total: u64,
    done: u64,
    read: u64,
    written: u64,
    /// Whether the total is known.
    is_open: bool,
}

impl Counts {
    fn of(progress: &Progress) -> Self {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            total: value(&progress.total_bytes),
            done: value(&progress.done_bytes),
            read: value(&progress.read_bytes),
            written: value(&progress.written_bytes),
            is_open: progress.is_open.load(Ordering::Relaxed),
        }
    }
}

/// Counters with their speeds, in bytes a second.
#[derive(Debug, Default)]
struct Rates {
    at_s: f64,
    counts: Counts,
    done_rate: f64,
    read_rate: f64,
}

impl Rates {
    fn update(&mut self, at_s: f64, counts: &Counts) {
        let passed = at_s - self.at_s;
        if passed <= 0.0 {
            return;
        }
        // Until there is as much to remember, the average is over all there was.
        let weight = (passed / MEMORY_S.min(at_s)).min(1.0);
        let blend = |rate: f64, new: u64, old: u64| {
            rate + weight * (new.saturating_sub(old) as f64 / passed - rate)
        };
        self.done_rate = blend(self.done_rate, counts.done, self.counts.done);
        self.read_rate = blend(self.read_rate, counts.read, self.counts.read);
        self.at_s = at_s;
        self.counts = *counts;
    }

    fn line(&self, verb: &str) -> String {
        let Counts {
            total,
            done,
            written,
            is_open,
            ..
        } = self.counts;
        let mut line = match is_open {
            true => format!("{verb}  {}", size::human(done)),
            false => {
                let (of, all) = (size::human(done.min(total)), size::human(total));
                format!("{verb}  {:>3}%  {of} / {all}", percent(done, total))
            }
        };
        if self.read_rate > 0.0 {
            line += &format!("  {}/s read", size::approximate(self.read_rate));
        }
        if written > 0 {
            // A backup tells before it is compressed.
            let word = if verb == "backup" { "new" } else { "written" };
            line += &format!("  {} {word}", size::human(written));
        }
        let left = total.saturating_sub(done) as f64 / self.done_rate;
        if !is_open && self.at_s >= 1.0 && left.is_finite() {
            line += &format!("  {} left", time::duration(left.ceil() as u64));
        }
        line
    }
}

/// Rounds down: what is not done yet is never called 100 %.
fn percent(done: u64, total: u64) -> u64 {
    let share = u128::from(done.min(total)) * 100 / u128::from(total.max(1));
    u64::try_from(share).expect("a share of the total is at most 100")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn counts(done: u64, read: u64) -> Counts {
        Counts {
            total: 1000 * MIB,
            done: done * MIB,
            read: read * MIB,
            written: 3 * MIB,
            is_open: false,
        }
    }

    #[test]
    fn a_steady_pace_is_told_exactly() {
        let mut rates = Rates::default();
        for step in 1..=100 {
            rates.update(step as f64 * 0.2, &counts(step * 2, step));
        }
        let line = "backing up   20%  200.0 MiB / 1000.0 MiB  5.0 MiB/s read  3.0 MiB written  \
                    1:20 min left";
        assert_eq!(rates.line("backing up"), line);
    }

    #[test]
    fn a_pause_is_forgotten() {
        let mut rates = Rates::default();
        rates.update(60.0, &counts(0, 0));
        for step in 1..=100 {
            rates.update(60.0 + step as f64 * 0.2, &counts(step, step));
        }
        assert!(
            (rates.done_rate / MIB as f64 - 5.0).abs() < 0.2,
            "{rates:?}"
        );
    }

    #[test]
    fn nothing_known_is_nothing_promised() {
        let mut rates = Rates::default();
        rates.update(2.0, &Counts::default());
        assert_eq!(rates.line("verifying"), "verifying    0%  0 B / 0 B");
        assert_eq!(percent(999, 1000), 99);
        assert_eq!(percent(1000, 1000), 100);
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
    }

    #[test]
    fn where_the_total_is_not_known_there_is_no_share_of_it() {
        let mut rates = Rates::default();
        let counts = Counts {
            is_open: true,
            ..counts(500, 0)
        };
        rates.update(2.0, &counts);
        assert_eq!(rates.line("get"), "get  500.0 MiB  3.0 MiB written");
    }

    #[test]
    fn a_meter_that_is_not_shown_costs_nothing() {
        let meter = Meter::start("x", Arc::default(), Shown::Never);
        assert!(meter.running.is_none());
        drop(Meter::start("x", Arc::default(), Shown::Line));
        drop(Meter::start("x", Arc::default(), Shown::Log));
    }
}
