//! Bounds on how fast something is read, as they are typed.

use std::num::NonZeroU64;
use std::sync::Arc;

use cairn_engine::source::RateLimit;

use crate::exit::CliError;
use crate::output::size;

/// Below so many bytes a second a unit must be given.
const FLOOR: u64 = 64 * 1024;

/// Returns the bound that was typed, such as `100MiB/s`.
pub fn rate_limit(text: Option<&str>) -> Result<Option<Arc<RateLimit>>, CliError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let rate = NonZeroU64::new(bytes_a_second(text)?)
        .ok_or_else(|| CliError::Usage("a limit of 0 bytes a second ends never".to_owned()))?;
    Ok(Some(Arc::new(RateLimit::new(rate))))
}

/// Returns how many bytes a second were typed.
pub fn bytes_a_second(text: &str) -> Result<u64, CliError> {
    let typed = text.trim_end_matches("/s").trim();
    let rate = size::parse(typed).map_err(CliError::Usage)?;
    // Whoever types `100` means MiB, and would wait for years.
    if rate < FLOOR && typed.ends_with(|last: char| last.is_ascii_digit()) {
        let text = format!("{typed} bytes a second? Give a unit, such as {typed}MiB or {typed}B");
        return Err(CliError::Usage(text));
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bytes_a_second_need_their_unit() {
        for text in ["100", "100/s", "65535", " 5 "] {
            assert!(rate_limit(Some(text)).is_err(), "{text}");
        }
        for text in ["100MiB/s", "100B", "100 B/s", "65536", "1k"] {
            assert!(matches!(rate_limit(Some(text)), Ok(Some(_))), "{text}");
        }
        assert!(rate_limit(Some("0B")).is_err());
    }
}
