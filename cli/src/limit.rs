//! Bounds on how fast something is read, as they are typed.

use std::num::NonZeroU64;
use std::sync::Arc;

use cairn_engine::source::RateLimit;

use crate::exit::CliError;
use crate::output::size;

/// Returns the bound that was typed, such as `100MiB/s`.
pub fn rate_limit(text: Option<&str>) -> Result<Option<Arc<RateLimit>>, CliError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let rate = size::parse(text.trim_end_matches("/s")).map_err(CliError::Usage)?;
    let rate = NonZeroU64::new(rate)
        .ok_or_else(|| CliError::Usage("a limit of 0 bytes a second ends never".to_owned()))?;
    Ok(Some(Arc::new(RateLimit::new(rate))))
}
