//! Names of the checkpoints that Cairn makes, so that it touches no others.
//!
//! `cairn-<8 digits of the repository's id>-<8 digits drawn for the snapshot>`. The snapshot's own
//! id is the hash of a manifest that names the checkpoint, so it cannot stand in the name; the
//! digits drawn stand in the manifest instead. A name is never used twice.

use std::fmt::{self, Display, Formatter};

use crate::id::RepositoryId;
use crate::source::libvirt::{Domain, LibvirtError};

const DIGITS: usize = 8;

/// The name of a checkpoint of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointName {
    repository: String,
    snapshot: String,
}

impl CheckpointName {
    /// Draws a name that no checkpoint has had: `is_used` knows those of before.
    pub fn draw(
        repository: &RepositoryId,
        is_used: impl Fn(&str) -> bool,
    ) -> Result<Self, getrandom::Error> {
        loop {
            let mut random = [0; DIGITS / 2];
            getrandom::fill(&mut random)?;
            let name = Self {
                repository: repository.short(),
                snapshot: hex::encode(random),
            };
            if !is_used(&name.to_string()) {
                return Ok(name);
            }
        }
    }

    /// Returns whether a checkpoint was made for this repository.
    pub fn is_of(name: &str, repository: &RepositoryId) -> bool {
        let rest = name.strip_prefix("cairn-");
        let rest = rest.and_then(|rest| rest.strip_prefix(&repository.short()));
        let digits = rest.and_then(|rest| rest.strip_prefix('-'));
        digits.is_some_and(is_drawn)
    }

    /// Returns whether a checkpoint was made by the run that drew these digits, for whichever
    /// repository.
    pub fn is_drawn_as(name: &str, drawn: &str) -> bool {
        let rest = name.strip_prefix("cairn-");
        let parts = rest.and_then(|rest| rest.split_once('-'));
        parts.is_some_and(|(repository, digits)| is_drawn(repository) && digits == drawn)
    }

    /// Returns the digits that were drawn, which serve as the run's own name too.
    pub fn drawn(&self) -> &str {
        &self.snapshot
    }
}

/// Returns whether a text may be the digits that a run has drawn.
pub fn is_drawn(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

impl Display for CheckpointName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "cairn-{}-{}", self.repository, self.snapshot)
    }
}

/// Deletes the checkpoints of a repository but for those to be kept, oldest first.
///
/// # Errors
///
/// The first failure; what stands after it stays.
pub fn delete_others(
    domain: &Domain,
    repository: &RepositoryId,
    keep: &[&str],
) -> Result<(), LibvirtError> {
    for name in domain.checkpoints()? {
        if CheckpointName::is_of(&name, repository) && !keep.contains(&name.as_str()) {
            domain.checkpoint_delete(&name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_repositorys_own_checkpoints_are_its_own() {
        let ours = RepositoryId::from_bytes([0xab; RepositoryId::LEN]);
        let others = RepositoryId::from_bytes([0xcd; RepositoryId::LEN]);
        let name = CheckpointName::draw(&ours, |_| false).expect("there is randomness");
        assert!(CheckpointName::is_of(&name.to_string(), &ours));
        assert!(!CheckpointName::is_of(&name.to_string(), &others));
        for name in [
            "cairn-abababab",
            "cairn-abababab-1234567",
            "x-abababab-12345678",
        ] {
            assert!(!CheckpointName::is_of(name, &ours), "{name}");
        }
        let again = CheckpointName::draw(&ours, |used| used == name.to_string());
        assert_ne!(again.ok(), Some(name));
    }
}
