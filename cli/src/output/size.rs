//! Sizes, in binary units, as people read and type them.

use std::str::FromStr;

use bytesize::ByteSize;

/// Writes a size with one decimal, such as `1.5 GiB`.
pub fn human(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Writes a size that is a whole number of its unit without decimals, such as `16 KiB`.
pub fn exact(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024 && value.is_multiple_of(1024) && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    if value < 1024 || unit == 0 && bytes < 10_000 {
        format!("{value} {}", UNITS[unit])
    } else {
        human(bytes)
    }
}

/// Writes a computed size that is not negative, such as an axis needs.
pub fn approximate(bytes: f64) -> String {
    // Saturates: a chart of more than 16 EiB is labelled so.
    human(bytes.max(0.0).round() as u64)
}

/// Reads a size as it is typed: `16KiB`, `64 MiB`, or a number of bytes. Units are binary whether
/// or not they have the `i`.
///
/// # Errors
///
/// A text that tells what is accepted.
pub fn parse(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    let unit = match unit.as_str() {
        "" | "B" => "B".to_owned(),
        _ => format!("{}iB", unit.trim_end_matches("IB").trim_end_matches('B')),
    };
    ByteSize::from_str(&format!("{number} {unit}"))
        .map(|size| size.as_u64())
        .map_err(|_| "a size like 16KiB or 1MiB is wanted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_in_binary_units() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(5 * 1024 * 1024 * 1024), "5.0 GiB");
        assert_eq!(exact(16 * 1024), "16 KiB");
        assert_eq!(exact(1024 * 1024), "1 MiB");
        assert_eq!(exact(512), "512 B");
        assert_eq!(exact(1_000_000), "976.6 KiB");
    }

    #[test]
    fn sizes_are_read_in_binary_units() {
        for text in [
            "16KiB", "16 KiB", "16k", "16K", "16KB", "16384", "16384B", " 16kib ",
        ] {
            assert_eq!(parse(text), Ok(16 * 1024), "{text}");
        }
        assert_eq!(parse("1.5MiB"), Ok(1536 * 1024));
        for text in ["", "KiB", "16 XiB", "-1", "1..5 KiB", "16 KiB KiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
