//! For how long forgotten snapshots rest before a collection may take them.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use super::SnapshotState;
use crate::format::config::{Config, GRACE_SECONDS_DEFAULT, GRACE_SECONDS_MAX};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
/// How far two collections must be apart for both to count; or the grace, where that is less. A
/// clock that is wrong after a start is put right meanwhile.
const APART: u64 = 12 * HOUR;

/// How long a forgotten snapshot rests, and can be brought back. To the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grace(u64);

/// Returned when a text is not a [`Grace`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time like 7d, 36h, 2w or 0 is wanted, at most 100 years")]
pub struct ParseGraceError;

impl Grace {
    /// None: what is forgotten may be taken at once.
    pub const NONE: Self = Self(0);

    /// Returns what a repository is set to.
    pub fn of(config: &Config) -> Self {
        Self(config.grace_seconds.unwrap_or(GRACE_SECONDS_DEFAULT))
    }

    /// Returns it in seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }
}

impl FromStr for Grace {
    type Err = ParseGraceError;

    fn from_str(text: &str) -> Result<Self, ParseGraceError> {
        if text == "0" {
            return Ok(Self(0));
        }
        let (unit, number) = [('h', HOUR), ('d', DAY), ('w', WEEK)]
            .into_iter()
            .find_map(|(unit, length)| Some((length, text.strip_suffix(unit)?)))
            .ok_or(ParseGraceError)?;
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseGraceError);
        }
        let number: u64 = number.parse().map_err(|_| ParseGraceError)?;
        let seconds = number.checked_mul(unit);
        let seconds = seconds.filter(|seconds| *seconds <= GRACE_SECONDS_MAX);
        seconds.map(Self).ok_or(ParseGraceError)
    }
}

impl fmt::Display for Grace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            seconds if seconds.is_multiple_of(DAY) => write!(f, "{}d", seconds / DAY),
            seconds if seconds.is_multiple_of(HOUR) => write!(f, "{}h", seconds / HOUR),
            seconds => write!(f, "{seconds} seconds"),
        }
    }
}

/// Returns from when on a collection may take a snapshot of this state, as far as is known by now;
/// `None` if never, as long as nothing changes: it is not forgotten, or it is protected or pinned
/// all the same, or may be, since a note of it is damaged.
///
/// It rests for the whole grace by two clocks: that of whoever forgot it, and that of the first
/// collection that saw it.
pub fn due(state: &SnapshotState, grace: Grace) -> Option<Timestamp> {
    let since = state.forgotten?;
    if state.is_protected || !state.pins.is_empty() || state.has_damaged_note {
        return None;
    }
    let since = state.resting.first().map_or(since, |seen| since.max(*seen));
    // What is due after all time never is.
    since.checked_add(duration(grace.0)).ok()
}

/// Returns whether a collection may take a snapshot of this state at `now`: it must be no root
/// then. Another collection must have found it due, some time before.
///
/// So no single wrong clock takes it. One that went back only delays. Whoever wants no grace at all
/// wants no clock either.
pub fn taken(state: &SnapshotState, grace: Grace, now: Timestamp) -> bool {
    let Some(due) = due(state, grace) else {
        return false;
    };
    let apart = duration(grace.0.min(APART));
    let is_over =
        |seen: &Timestamp| *seen >= due && seen.checked_add(apart).is_ok_and(|since| since <= now);
    grace == Grace::NONE || state.resting.iter().any(is_over)
}

/// Returns whether a collection at `now` has to note that it has seen a snapshot of this state: as
/// the first one, or as the first one that finds it due.
pub fn is_news(state: &SnapshotState, grace: Grace, now: Timestamp) -> bool {
    let Some(due) = due(state, grace).filter(|_| grace != Grace::NONE) else {
        return false;
    };
    let is_known = |seen: &Timestamp| (due..=now).contains(seen);
    state.resting.is_empty() || due <= now && !state.resting.iter().any(is_known)
}

fn duration(seconds: u64) -> SignedDuration {
    i64::try_from(seconds).map_or(SignedDuration::MAX, SignedDuration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn grace(text: &str) -> Grace {
        text.parse().expect("the time is valid")
    }

    fn forgotten() -> SnapshotState {
        SnapshotState {
            forgotten: Some(at(1000)),
            ..SnapshotState::default()
        }
    }

    /// Forgotten, and then seen at these times.
    fn seen(seconds: &[i64]) -> SnapshotState {
        SnapshotState {
            resting: seconds.iter().map(|second| at(*second)).collect(),
            ..forgotten()
        }
    }

    #[test]
    fn a_forgotten_snapshot_rests_for_the_grace() {
        let day = grace("1d");
        let due = 1000 + 86_400;
        let apart = 12 * 3600;
        // By its note alone nothing goes, however long ago that is.
        assert!(!taken(&forgotten(), day, Timestamp::MAX));
        // The first look counts from its own time.
        assert!(!taken(&seen(&[due + 5]), day, at(due + apart + 10)));
        assert!(!taken(&seen(&[1000, due - 1]), day, Timestamp::MAX));
        assert!(!taken(&seen(&[1000, due]), day, at(due + apart - 1)));
        assert!(taken(&seen(&[1000, due]), day, at(due + apart)));
        assert!(taken(&seen(&[1000, due]), grace("1h"), at(due + 3600)));
        assert!(taken(&forgotten(), grace("0"), at(1000)));
    }

    #[test]
    fn a_look_is_noted_first_and_when_it_is_due() {
        let day = grace("1d");
        let due = 1000 + 86_400;
        assert!(is_news(&forgotten(), day, at(1000)));
        assert!(!is_news(&seen(&[1000]), day, at(due - 1)));
        assert!(is_news(&seen(&[1000]), day, at(due)));
        assert!(!is_news(&seen(&[1000, due]), day, at(due + 1)));
        // Someone's clock was ahead.
        assert!(is_news(&seen(&[1000, due + 9000]), day, at(due + 1)));
        assert!(!is_news(&forgotten(), Grace::NONE, at(1000)));
        assert!(!is_news(&SnapshotState::default(), day, at(due)));
    }

    #[test]
    fn a_clock_that_went_back_lets_it_rest_on() {
        let seen = seen(&[1000, 1_000_000]);
        for text in ["1h", "7d"] {
            assert!(!taken(&seen, grace(text), at(999)), "{text}");
            assert!(!taken(&seen, grace(text), at(-1_000_000)), "{text}");
        }
        assert!(taken(&forgotten(), Grace::NONE, at(999)));
        let last = SnapshotState {
            forgotten: Some(Timestamp::MAX),
            resting: vec![Timestamp::MAX; 2],
            ..SnapshotState::default()
        };
        assert!(!taken(&last, grace("1h"), Timestamp::MAX));
    }

    #[test]
    fn what_is_wanted_is_never_taken() {
        let live = SnapshotState::default();
        let protected = SnapshotState {
            is_protected: true,
            ..forgotten()
        };
        let pinned = SnapshotState {
            pins: ["a domain".to_owned()].into(),
            ..forgotten()
        };
        let damaged = SnapshotState {
            has_damaged_note: true,
            ..forgotten()
        };
        for state in [live, protected, pinned, damaged] {
            assert!(!taken(&state, grace("0"), Timestamp::MAX), "{state:?}");
            assert_eq!(due(&state, grace("0")), None);
        }
    }

    #[test]
    fn times_are_read_and_written() {
        for (text, seconds, shown) in [
            ("0", 0, "0"),
            ("0d", 0, "0"),
            ("7d", 7 * 86_400, "7d"),
            ("2w", 14 * 86_400, "14d"),
            ("36h", 36 * 3600, "36h"),
            ("36500d", 36_500 * 86_400, "36500d"),
        ] {
            assert_eq!(grace(text).seconds(), seconds);
            assert_eq!(grace(text).to_string(), shown);
        }
        for text in [
            "",
            "d",
            "7",
            "-1d",
            "+1d",
            "7m",
            "7dd",
            "36526d",
            "99999999999999999999d",
        ] {
            assert_eq!(text.parse::<Grace>(), Err(ParseGraceError), "{text}");
        }
    }
}
