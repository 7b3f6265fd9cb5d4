//! Takes what is whole out of damaged packs, whether a snapshot needs it or not: a writer may have
//! built on it.

use std::collections::HashSet;

use crate::format::pack::PackKind;
use crate::id::ContentId;
use crate::pack::PackReader;
use crate::repository::{Contents, MovedFrame, Mover};
use crate::storage::Session;

use super::scan::DamagedPack;
use super::{RepairError, RepairOptions, RepairReport};

/// Copies what is whole in the damaged packs of the report into new packs.
///
/// # Durability
///
/// On return all copies are durable.
pub(super) fn salvage(
    contents: &Contents,
    session: &dyn Session,
    options: &RepairOptions<'_>,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    for kind in [PackKind::Data, PackKind::Nodes] {
        let mut readers = Vec::new();
        for pack in report.damaged.iter().filter(|pack| pack.is_readable) {
            let reader = contents.footer(pack.id)?;
            if reader.header().kind == kind {
                readers.push((pack, reader));
            }
        }
        if readers.is_empty() {
            continue;
        }
        let packer = contents.repository().start_packer(session.id(), kind);
        let packer = packer.map_err(RepairError::NoPacker)?;
        let mut mover = Mover::new(contents, &packer);
        let mut moved = Ok(0);
        for (pack, reader) in &readers {
            moved = move_pack(&mut mover, pack, reader, options);
            match moved {
                Ok(count) => report.salvaged += count,
                Err(_) => break,
            }
        }
        drop(mover);
        let stats = packer.finish();
        // A packer that stopped knows why; what its caller met is only the consequence.
        let stats = stats?;
        moved?;
        report.written_packs += stats.packs.len() as u64;
        report.written_bytes += stats.stored_bytes;
    }
    Ok(())
}

/// Moves what is whole in a pack; returns how much that was.
fn move_pack(
    mover: &mut Mover<'_>,
    pack: &DamagedPack,
    reader: &PackReader,
    options: &RepairOptions<'_>,
) -> Result<u64, RepairError> {
    let known: HashSet<ContentId> = pack.bad.iter().copied().collect();
    let mut count = 0;
    for (number, _) in (0_u32..).zip(&reader.footer().frames) {
        if options.cancel.is_cancelled() {
            return Err(RepairError::Cancelled);
        }
        let MovedFrame {
            moved,
            bad,
            failure,
        } = mover.frame(reader, number, |_| true)?;
        count += moved as u64;
        // What was whole before and is not now is no damage that was looked at.
        if let Some(error) = failure.filter(|_| bad.iter().any(|id| !known.contains(id))) {
            return Err(error.into());
        }
    }
    mover.flush()?;
    Ok(count)
}
