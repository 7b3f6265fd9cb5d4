//! Which snapshots are kept, and for how long forgotten ones rest.
//!
//! [`decide`] is a function of the snapshots' dates, a [`Policy`] and the moment: it reads and
//! writes nothing. `docs/retention.md` has the rules, and argues why no clock that is wrong makes
//! them forget what a right one would keep.

mod decide;
mod lineage;
mod marks;
mod policy;
mod reason;
mod span;

pub use crate::repository::grace::{Grace, ParseGraceError, due, taken};
pub use decide::{Candidate, Clock, Decision, Flaw, Group, decide};
pub use marks::{protect, undelete, unprotect};
pub use policy::{Count, EmptyPolicyError, KeepTag, ParseCountError, Policy, Rule};
pub use reason::Reason;
pub use span::{KeepSpan, ParseSpanError};

#[cfg(test)]
mod tests;
