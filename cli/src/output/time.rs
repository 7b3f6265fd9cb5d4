//! Moments and durations, as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

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

#[cfg(test)]
mod tests {
    use super::*;

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
