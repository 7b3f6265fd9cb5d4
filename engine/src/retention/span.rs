//! Spans of time by the calendar, as restic writes them: `2y5m7d3h`.

use std::fmt;
use std::str::FromStr;

use jiff::{Span, Timestamp, tz::TimeZone};

/// Years, months, days and hours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepSpan {
    years: u16,
    months: u16,
    days: u16,
    hours: u32,
}

/// Returned when a text is not a span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a duration like 2y5m7d3h is wanted: years, months, days and hours, each once at most")]
pub struct ParseSpanError;

impl KeepSpan {
    /// Returns whether it has no length.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// Returns the moment that lies so far before another in a time zone. Years, months and days
    /// are those of the calendar, so that a day may have 23 or 25 hours; hours are hours.
    /// `None` where that is before all time.
    pub(super) fn before(self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let days = Span::new()
            .try_years(self.years)
            .and_then(|span| span.try_months(self.months))
            .and_then(|span| span.try_days(self.days))
            .ok()?;
        let hours = Span::new().try_hours(self.hours).ok()?;
        let day = time.to_zoned(zone.clone()).checked_sub(days).ok()?;
        day.timestamp().checked_sub(hours).ok()
    }
}

impl FromStr for KeepSpan {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let mut found: [Option<u32>; 4] = [None; 4];
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, after) = rest.split_at(digits);
            let unit = after.chars().next().ok_or(ParseSpanError)?;
            let place = "ymdh".find(unit).ok_or(ParseSpanError)?;
            let number = number.parse().map_err(|_| ParseSpanError)?;
            if found[place].replace(number).is_some() {
                return Err(ParseSpanError);
            }
            rest = &after[1..];
        }
        if found.iter().all(Option::is_none) {
            return Err(ParseSpanError);
        }
        let [years, months, days, hours] = found.map(Option::unwrap_or_default);
        let short = |number: u32| u16::try_from(number).map_err(|_| ParseSpanError);
        Ok(Self {
            years: short(years)?,
            months: short(months)?,
            days: short(days)?,
            hours,
        })
    }
}

impl fmt::Display for KeepSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0h");
        }
        let parts = [
            (self.years.into(), 'y'),
            (self.months.into(), 'm'),
            (self.days.into(), 'd'),
            (self.hours, 'h'),
        ];
        for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{number}{unit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_restic_reads_them() {
        for (text, shown) in [
            ("2y5m7d3h", "2y5m7d3h"),
            ("3h7d", "7d3h"),
            ("14d", "14d"),
            ("0d", "0h"),
            ("01y", "1y"),
        ] {
            let span: KeepSpan = text.parse().expect("the span is valid");
            assert_eq!(span.to_string(), shown);
            assert_eq!(span.is_zero(), shown == "0h");
        }
        for text in [
            "",
            "d",
            "7",
            "7x",
            "7d7d",
            "-7d",
            "7 d",
            "7d ",
            "70000d",
            "9999999999h",
            "1é",
            "7D",
        ] {
            assert_eq!(text.parse::<KeepSpan>(), Err(ParseSpanError), "{text}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar_and_hours_are_hours() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("the rule parses");
        let before = |span: &str, time: &str| {
            let span: KeepSpan = span.parse().expect("the span is valid");
            let time = time.parse().expect("the time is valid");
            span.before(time, &berlin).map(|time| time.to_string())
        };
        // The clock went back on 25 October: that day had 25 hours.
        let noon = "2026-10-25T11:00:00Z";
        assert_eq!(before("1d", noon).as_deref(), Some("2026-10-24T10:00:00Z"));
        assert_eq!(before("24h", noon).as_deref(), Some("2026-10-24T11:00:00Z"));
        let month = before("1m", "2026-03-31T10:00:00Z");
        assert_eq!(month.as_deref(), Some("2026-02-28T11:00:00Z"));
        assert_eq!(before("20000y", noon), None);
    }
}
