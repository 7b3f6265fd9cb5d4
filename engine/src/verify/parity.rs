//! The parity of packs that are read: whether it could rebuild them.

use super::VerifyError;
use super::report::{FaultKind, Findings};
use crate::id::PackId;
use crate::pack::{ParityState, inspect_parity};
use crate::repository::RepositoryError;
use crate::storage::{Area, Name, SharedStorage};

/// Reads a pack's parity. `checks` are its length and those of its blocks, where it is whole.
pub(super) fn parity(
    storage: &SharedStorage,
    pack: PackId,
    percent: u8,
    checks: Option<&(u64, Vec<u64>)>,
) -> Result<ParityState, VerifyError> {
    let checks = checks.map(|(len, checks)| (*len, checks.as_slice()));
    let state = inspect_parity(storage, pack, percent, checks);
    let state = state.map_err(RepositoryError::from)?;
    // A collection may be taking both, the pack first: what is nobody's need not be whole.
    match state {
        ParityState::Damaged(_) if !is_there(storage, pack)? => Ok(ParityState::Whole),
        state => Ok(state),
    }
}

/// Returns whether a pack has its name still. One that is open can be read without.
fn is_there(storage: &SharedStorage, pack: PackId) -> Result<bool, VerifyError> {
    let listed = storage.list(Area::Packs).map_err(RepositoryError::from)?;
    Ok(listed.iter().any(|listed| listed.name == Name::Pack(pack)))
}

impl Findings {
    /// Adds what was found of a pack's parity.
    pub(super) fn parity(&mut self, pack: PackId, state: &ParityState) {
        match state {
            ParityState::Whole => {}
            ParityState::Missing => self.report.without_parity += 1,
            ParityState::Damaged(why) => {
                self.add(Name::Parity(pack).path(), FaultKind::Parity, why.clone());
            }
        }
    }
}
