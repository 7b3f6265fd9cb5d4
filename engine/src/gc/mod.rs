//! Collection: deletes the packs that no snapshot needs, and moves what is needed out of packs that
//! are mostly dead. Beside running backups, restores and exports, none of which it blocks.
//!
//! In four steps, of which `docs/concurrency.md` argues that no order of them, of crashes and of
//! what others do meanwhile loses a byte:
//!
//! ```text
//! plan    which packs hold nothing that any snapshot needs, or too little; copy what they hold
//!         into new packs; write down, durably, which packs and snapshots are to go
//! wait    for the writers that were at work then, and may have built on those packs
//! look    walk what has been published since: a pack that it needs stays
//! delete  manifests first, then packs, then the plan
//! ```
//!
//! What lives is known from recipes and from the footers of packs, never from the index.

mod census;
mod choose;
mod collection;
mod duplicates;
mod error;
mod mark;
mod options;
mod parity;
mod plan;
mod repack;
mod rest;
mod roots;
mod sweep;
mod wait;

pub use collection::Collection;
pub use error::GcError;
pub use options::{GcEvent, GcOptions, GcReport, Waiting};
pub(crate) use wait::writers_at_work;
