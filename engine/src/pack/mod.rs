//! Packs: written frame by frame, read by range, described by their footers.
//!
//! `docs/format.md` ("Packs") is the specification. A pack is immutable and named by the hash of
//! its stored bytes, so an entry that was once true stays true for as long as the pack is there.

mod error;
mod footers;
mod framer;
mod packer;
mod parity;
mod places;
mod reader;
mod writer;

pub use error::PackError;
pub use footers::FooterCache;
pub use framer::{Frame, Framer};
pub use packer::{PackSink, Packer, PackerStats};
pub use parity::{
    BlockChecks, ParityState, Rebuild, Rebuilt, inspect_parity, make_parity, rebuild_pack,
};
pub use places::places_in;
pub use reader::{PackReader, read_footer};
pub use writer::{PackContext, PackWriter, SealedPack};
