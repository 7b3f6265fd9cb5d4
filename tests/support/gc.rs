//! Collections as tests want them: nothing rests, nobody is waited for.

use std::sync::Arc;
use std::time::Duration;

use cairn_engine::gc::{Collection, GcError, GcOptions, GcReport};
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::Repository;
use cairn_engine::repository::grace::Grace;
use jiff::Timestamp;

/// Hands the options to `then`.
pub fn with_gc_options<T>(
    now: Timestamp,
    max_unused: f64,
    then: impl FnOnce(GcOptions<'_>) -> T,
) -> T {
    let (progress, cancel) = (Progress::default(), Cancel::default());
    then(GcOptions {
        grace: Grace::NONE,
        now,
        max_unused,
        wait: Some(Duration::ZERO),
        despite_missing: false,
        memory: 1 << 16,
        temp: None,
        threads: 1,
        limit: None,
        progress: &progress,
        cancel: &cancel,
        observe: &|_| {},
    })
}

/// Collects, so that nothing dead stays.
pub fn collect(repository: &Arc<Repository>, now: Timestamp) -> Result<GcReport, GcError> {
    collect_but(repository, now, 0.0)
}

/// Collects, but for so many percent that may stay dead.
pub fn collect_but(
    repository: &Arc<Repository>,
    now: Timestamp,
    max_unused: f64,
) -> Result<GcReport, GcError> {
    with_gc_options(now, max_unused, |options| {
        Collection::begin(repository, options).and_then(Collection::run)
    })
}
