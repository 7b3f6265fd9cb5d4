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
    /// The forgotten snapshots to delete, ascending: nobody may begin to read them.
    pub taken: Vec<SnapshotId>,
    /// The writers that were at work once the plan could be read, ascending; `None` until that is
    /// known, which is a moment after.
    pub waiting_for: Option<Vec<SessionId>>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A plan as it stands in its file.
#[derive(Serialize)]
struct Document<'p> {
    #[serde(flatten)]
    plan: &'p Plan,
    /// Covers the file, with zeros for itself: what a flipped bit could make of a plan, such as
    /// another writer to wait for, must not be believed.
    #[serde(with = "json::hex_bytes")]
    hash: [u8; HASH_LEN],
}

const HASH_LEN: usize = 32;

impl Plan {
    /// Encodes the plan, unsealed.
    ///
    /// # Errors
    ///
    /// Lists out of order, or a plan longer than 64 MiB (about a million ids).
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        json::check_version(WHAT, self.version.into(), PLAN_VERSION)?;
        self.check()?;
        let mut document = Document {
            plan: self,
            hash: [0; HASH_LEN],
        };
        let zeroed = json::encode_bounded(WHAT, &document, MANIFEST_LEN_MAX)?;
        document.hash = *blake3::hash(&zeroed).as_bytes();
        Ok(json::encode(&document))
    }

    /// Decodes an unsealed plan.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Hashed {
            #[serde(with = "json::hex_bytes")]
            hash: [u8; HASH_LEN],
        }
        let mut plan: Self = json::decode_versioned(WHAT, bytes, MANIFEST_LEN_MAX, PLAN_VERSION)?;
        let Hashed { hash } = json::decode(WHAT, bytes, MANIFEST_LEN_MAX)?;
        let zeroed = json::zeroed(bytes, hash);
        if zeroed.is_none_or(|zeroed| blake3::hash(zeroed.as_bytes()) != hash) {
            return Err(FormatError::Malformed {
                rule: "a plan must match its own hash",
            });
        }
        plan.unknown.remove("hash");
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), FormatError> {
        let ascending = self.condemned.is_sorted_by(|a, b| a < b)
            && self.covered.is_sorted_by(|a, b| a < b)
            && self.taken.is_sorted_by(|a, b| a < b)
            && (self.waiting_for.iter()).all(|writers| writers.is_sorted_by(|a, b| a < b));
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
            taken: vec![SnapshotId::from_bytes([6; 32])],
            waiting_for: Some(vec![SessionId::from_bytes([5; 16])]),
            unknown: Unknown::new(),
        };
        assert_eq!(Plan::decode(&plan.encode()?)?, plan);
        let mut waits_for_nobody = plan.clone();
        waits_for_nobody.waiting_for = None;
        assert_eq!(Plan::decode(&waits_for_nobody.encode()?)?, waits_for_nobody);
        plan.condemned.reverse();
        assert!(matches!(plan.encode(), Err(FormatError::Malformed { .. })));
        Ok(())
    }

    #[test]
    fn no_flipped_bit_is_believed() -> Result<(), FormatError> {
        let plan = Plan {
            version: PLAN_VERSION,
            id: SessionId::from_bytes([1; 16]),
            created: Timestamp::from_second(1_795_000_000).expect("in range"),
            condemned: vec![PackId::from_bytes([2; 32])],
            covered: Vec::new(),
            taken: Vec::new(),
            waiting_for: Some(vec![SessionId::from_bytes([5; 16])]),
            unknown: Unknown::new(),
        };
        let bytes = plan.encode()?;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Plan::decode(&flipped).is_err(), "bit {bit}");
        }
        Ok(())
    }
}
