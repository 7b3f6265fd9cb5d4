//! Repacking: what lives in packs that go is copied into new ones. Everything is decoded and
//! compared with its id first: what cannot be proven whole is not moved, and its pack stays.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use crate::format::pack::PackKind;
use crate::id::ContentId;
use crate::pack::PackError;
use crate::pool;
use crate::progress::Progress;
use crate::repository::{Contents, MovedFrame, Mover};
use crate::storage::Session;

use super::census::{Census, Pack};
use super::{GcError, GcOptions};

/// What was moved.
#[derive(Default)]
pub(super) struct Moved {
    /// Packs written.
    pub(super) packs: u64,
    /// Their stored bytes.
    pub(super) stored_bytes: u64,
    /// Numbers of packs that hold something that lives and is whole nowhere.
    pub(super) damaged: BTreeSet<u32>,
}

/// Copies what lives in the packs that go.
///
/// # Durability
///
/// On return all copies are durable.
pub(super) fn repack(
    contents: &Contents,
    session: &dyn Session,
    census: &Census,
    goes: &[bool],
    options: &GcOptions<'_>,
) -> Result<Moved, GcError> {
    let mut moved = Moved::default();
    for kind in [PackKind::Data, PackKind::Nodes] {
        let packs = (0_u32..).zip(&census.packs).zip(goes);
        let packs: Vec<(u32, &Pack)> = packs
            .filter_map(|((number, pack), goes)| Some((number, pack.as_ref().filter(|_| *goes)?)))
            .filter(|(_, pack)| pack.kind == kind && !pack.is_dead())
            .collect();
        if !packs.is_empty() {
            repack_kind(contents, session, kind, &packs, options, &mut moved)?;
        }
    }
    Ok(moved)
}

fn repack_kind(
    contents: &Contents,
    session: &dyn Session,
    kind: PackKind,
    packs: &[(u32, &Pack)],
    options: &GcOptions<'_>,
    moved: &mut Moved,
) -> Result<(), GcError> {
    let packer = contents.repository().start_packer(session.id(), kind);
    let packer = packer.map_err(GcError::NoPacker)?;
    let damaged = Mutex::new(BTreeSet::new());
    let items = packs.iter().map(Ok::<_, GcError>);
    let done = pool::for_each(options.threads, "repack", items, || {
        let mut mover = Mover::new(contents, &packer);
        let damaged = &damaged;
        move |(number, pack): &(u32, &Pack)| {
            if !move_pack(&mut mover, contents, pack, options)? {
                let mut damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner);
                damaged.insert(*number);
            }
            Ok(())
        }
    });
    // A packer that stopped knows why; what its caller met is only the consequence.
    let stats = packer.finish()?;
    done?;
    moved.packs += stats.packs.len() as u64;
    moved.stored_bytes += stats.stored_bytes;
    let damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    moved.damaged.extend(damaged);
    Ok(())
}

/// Moves what lives in a pack; returns whether all of that could be had.
fn move_pack(
    mover: &mut Mover<'_>,
    contents: &Contents,
    pack: &Pack,
    options: &GcOptions<'_>,
) -> Result<bool, GcError> {
    let reader = contents.footer(pack.id)?;
    let is_live = |entry: u32| pack.live.get(entry);
    let mut is_whole = true;
    for (number, frame) in (0_u32..).zip(&reader.footer().frames) {
        if !frame.chunks.clone().any(is_live) {
            continue;
        }
        if options.cancel.is_cancelled() {
            return Err(GcError::Cancelled);
        }
        let len = u64::from(frame.stored_len);
        if let Some(limit) = options.limit {
            let taken = limit.take(len, options.cancel);
            taken.map_err(|_| GcError::Cancelled)?;
        }
        let MovedFrame { bad, failure, .. } = mover.frame(&reader, number, is_live)?;
        if let Some(shortage) = failure.filter(PackError::is_shortage) {
            return Err(shortage.into());
        }
        Progress::add(&options.progress.done_bytes, len);
        is_whole &= move_copies(mover, contents, pack.kind, bad)?;
    }
    mover.flush()?;
    Ok(is_whole)
}

/// Moves what is not whole where it was from wherever it is; returns whether all was found.
fn move_copies(
    mover: &mut Mover<'_>,
    contents: &Contents,
    kind: PackKind,
    ids: Vec<ContentId>,
) -> Result<bool, GcError> {
    if ids.is_empty() {
        return Ok(true);
    }
    let keys = contents.repository().keys();
    let ids: HashSet<ContentId> = ids.into_iter().collect();
    let mut copies = contents.copies(&ids)?;
    let mut is_whole = true;
    for id in ids {
        let hash = |bytes: &[u8]| keys.content_id(kind, bytes);
        match contents.whole_copy(id, &mut copies, &mut None, hash) {
            Ok(Some(bytes)) => mover.add(id, &bytes)?,
            // Its pack stays, whatever the reason.
            Ok(None) | Err(_) => is_whole = false,
        }
    }
    Ok(is_whole)
}
