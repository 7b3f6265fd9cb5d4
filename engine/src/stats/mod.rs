//! What a repository holds, what deduplication and compression gain, and whom the space belongs to.

mod sets;
mod slots;
mod totals;
mod usage;
mod walk;

pub use totals::{Stats, StatsError, stats};
pub use usage::{Owned, Space, Usage, UsageOptions, usage};
