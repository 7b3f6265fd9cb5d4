//! Moments and durations, as people read them.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};

/// Writes a moment in the local time zone, to the second.
pub fn local(time: Timestamp) -> String {
    in_zone(time, TimeZone::system())
}

/// Writes a moment in a time zone, to the second.
pub fn in_zone(time: Timestamp, zone: TimeZone) -> String {
    time.to_zoned(zone)
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// Serialises a moment as JSON documents have it, in UTC.
pub fn rfc3339<S: serde::Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(time)
}

/// Does the same where there may be none.
pub fn rfc3339_or_null<S: serde::Serializer>(
    time: &Option<Timestamp>,
    out: S,
) -> Result<S::Ok, S::Error> {
    match time {
        None => out.serialize_none(),
        Some(time) => rfc3339(time, out),
    }
}

/// Writes a duration, such as `42 s`, `3:05 min` or `2:10 h`.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes}:{:02} min", seconds % 60),
        _ => format!("{hours}:{:02} h", minutes % 60),
    }
}

/// Reads a duration, such as `90s`, `10min`, `2h`, `7d` or `1w 2d`; a bare 0 is none.
pub fn parse(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let span: Result<Span, _> = text.parse();
    let length = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let wrong = || format!("`{text}` is no duration such as 90s, 10min, 2h or 7d");
    let length = length.map_err(|_| wrong())?;
    Duration::try_from(length).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let second = Duration::from_secs(1);
        for (text, seconds) in [
            ("0", 0),
            ("90s", 90),
            ("10min", 600),
            ("2h", 7200),
            ("7d", 604_800),
        ] {
            assert_eq!(parse(text), Ok(second * seconds), "{text}");
        }
        for text in ["", "7", "-1h", "1 fortnight", "2y"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_local() {
        let time: Timestamp = "2026-11-20T23:30:05.9Z".parse().expect("the time is valid");
        assert_eq!(in_zone(time, TimeZone::UTC), "2026-11-20 23:30:05");
        let east = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(in_zone(time, east), "2026-11-21 00:30:05");
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(185), "3:05 min");
        assert_eq!(duration(7800), "2:10 h");
    }
}
