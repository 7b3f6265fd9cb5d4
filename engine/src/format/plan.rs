//! What a collection has condemned. Specified in `docs/format.md`, "Collection plan".

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::json;
use super::{FormatError, Unknown};
use crate::id::{PackId, SessionId, SnapshotId};
use crate::limits::MANIFEST_LEN_MAX;

/// Version of plans.
pub const PLAN_VERSION: u32 = 1;

const WHAT: &str = "gc plan";

/// The packs that a collection will delete, and what it waits for first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The session that wrote the plan: a plan's identity.
    pub id: SessionId,
    /// When it was written.
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    /// The packs to delete, ascending.
    pub condemned: Vec<PackId>,
    /// The snapshots that were walked, ascending: others are walked before anything is deleted.
    pub covered: Vec<SnapshotId>,
    /// The writers that were at work when the plan was written.
    pub waiting_for: Vec<SessionId>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Plan {
    /// Encodes the plan, unsealed.
    ///
    /// # Errors
    ///
    /// Lists out of order, or a plan longer than 64 MiB (about a million ids).
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        json::check_version(WHAT, self.version.into(), PLAN_VERSION)?;
        self.check()?;
        json::encode_bounded(WHAT, self, MANIFEST_LEN_MAX)
    }

    /// Decodes an unsealed plan.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let plan: Self = json::decode_versioned(WHAT, bytes, MANIFEST_LEN_MAX, PLAN_VERSION)?;
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), FormatError> {
        let ascending = self.condemned.is_sorted_by(|a, b| a < b)
            && self.covered.is_sorted_by(|a, b| a < b)
            && self.waiting_for.is_sorted_by(|a, b| a < b);
        if ascending {
            return Ok(());
        }
        Err(FormatError::Malformed {
            rule: "the lists of a plan must be ascending",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_round_trip_and_must_be_ascending() -> Result<(), FormatError> {
        let mut plan = Plan {
            version: PLAN_VERSION,
            id: SessionId::from_bytes([1; 16]),
            created: Timestamp::from_second(1_795_000_000).expect("in range"),
            condemned: vec![PackId::from_bytes([2; 32]), PackId::from_bytes([3; 32])],
            covered: vec![SnapshotId::from_bytes([4; 32])],
            waiting_for: vec![SessionId::from_bytes([5; 16])],
            unknown: Unknown::new(),
        };
        assert_eq!(Plan::decode(&plan.encode()?)?, plan);
        plan.condemned.reverse();
        assert!(matches!(plan.encode(), Err(FormatError::Malformed { .. })));
        Ok(())
    }
}
