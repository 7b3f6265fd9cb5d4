//! The index alone.

use std::sync::Arc;

use crate::repository::{Access, Contents, Repository};

use super::RepairError;

/// Throws the index away and builds it anew from the footers of all packs. Returns whether it
/// could be thrown away: not while another process is adding to it.
pub fn rebuild_index(repository: &Arc<Repository>) -> Result<bool, RepairError> {
    let is_discarded = Contents::discard_index(repository)?;
    drop(Contents::open(repository, Access::Upkeep, "repair")?);
    Ok(is_discarded)
}
