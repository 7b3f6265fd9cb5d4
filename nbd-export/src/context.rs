//! Metadata contexts: what `NBD_CMD_BLOCK_STATUS` can be asked about.
//!
//! `base:allocation` tells holes. What changed since another snapshot B of the same disk is told
//! under two names: `cairn:diff:B`, and `qemu:dirty-bitmap:cairn-diff-B` for tools that know
//! QEMU's dirty bitmaps. B is the whole id of a snapshot. There may be thousands of them, so a
//! list names the newest, and any other can be chosen all the same.

use std::fmt;

use cairn_engine::id::SnapshotId;
use cairn_engine::nbd::wire::{BASE_ALLOCATION, QEMU_DIRTY_BITMAP};

use crate::disk::DiskError;
use crate::exports::Export;

/// How many snapshots a list of contexts names at most; it fits well into what clients take.
pub const LISTED_BASES_MAX: usize = 256;
/// How many contexts one connection may choose; a client needs two or three.
pub const CHOSEN_MAX: usize = 32;

const BASE: &str = "base:";
const CAIRN: &str = "cairn:";
const CAIRN_DIFF: &str = "cairn:diff:";
const QEMU: &str = "qemu:";
/// What stands before the id of a snapshot in the name of a dirty bitmap.
const BITMAP_PREFIX: &str = "cairn-diff-";

/// A metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Which parts hold data.
    Allocation,
    /// What changed since a snapshot.
    Diff(SnapshotId),
    /// The same under the name of a dirty bitmap.
    Bitmap(SnapshotId),
}

/// Makes the context of one kind for a snapshot.
type OfBase = fn(SnapshotId) -> Context;

impl Context {
    /// Returns the context of exactly that name, if the export has it.
    ///
    /// # Errors
    ///
    /// Nobody can tell.
    pub fn find(name: &str, export: &Export) -> Result<Option<Self>, DiskError> {
        if name == BASE_ALLOCATION {
            return Ok(Some(Self::Allocation));
        }
        let named = export.changes.as_ref().zip(Self::with_base(name));
        let Some((changes, (base, context))) = named else {
            return Ok(None);
        };
        Ok(changes.has(base)?.then(|| context(base)))
    }

    /// Returns the snapshot that a name has in it, and the kind of the context.
    fn with_base(name: &str) -> Option<(SnapshotId, OfBase)> {
        let (base, context): (_, fn(SnapshotId) -> Self) = match name.strip_prefix(CAIRN_DIFF) {
            Some(base) => (base, Self::Diff),
            None => {
                let bitmap = name.strip_prefix(QEMU_DIRTY_BITMAP)?;
                (bitmap.strip_prefix(BITMAP_PREFIX)?, Self::Bitmap)
            }
        };
        Some((base.parse().ok()?, context))
    }

    /// Returns the contexts that a query asks a list for: one by its name, or those of a
    /// namespace, which may be cut after any colon.
    ///
    /// # Errors
    ///
    /// Nobody can tell.
    pub fn matching(query: &str, export: &Export) -> Result<Vec<Self>, DiskError> {
        Ok(match query {
            BASE => vec![Self::Allocation],
            CAIRN | CAIRN_DIFF => bases(export, Self::Diff),
            QEMU | QEMU_DIRTY_BITMAP => bases(export, Self::Bitmap),
            name => Self::find(name, export)?.into_iter().collect(),
        })
    }

    /// Returns every context, except that only the newest snapshots are named.
    pub fn all(export: &Export) -> Vec<Self> {
        let mut all = vec![Self::Allocation];
        all.extend(bases(export, Self::Diff));
        all.extend(bases(export, Self::Bitmap));
        all
    }
}

fn bases(export: &Export, context: fn(SnapshotId) -> Context) -> Vec<Context> {
    let changes = export.changes.iter();
    let bases = changes.flat_map(|changes| changes.bases());
    bases.take(LISTED_BASES_MAX).map(context).collect()
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocation => f.write_str(BASE_ALLOCATION),
            Self::Diff(base) => write!(f, "{CAIRN_DIFF}{base}"),
            Self::Bitmap(base) => write!(f, "{QEMU_DIRTY_BITMAP}{BITMAP_PREFIX}{base}"),
        }
    }
}
