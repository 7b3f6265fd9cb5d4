//! Parity: what a pack can be rebuilt from where blocks of it are damaged.
//!
//! `docs/format.md` ("Parity") is the specification. Everything goes group by group, so that the
//! memory is some megabytes whatever the pack's length. Nothing here is believed: what was rebuilt
//! must have the hash that is the pack's name.

mod blocks;
mod code;
mod inspect;
mod make;
mod rebuild;

pub use blocks::BlockChecks;
pub use inspect::{ParityState, inspect_parity};
pub use make::make_parity;
pub use rebuild::{Rebuild, Rebuilt, rebuild_pack};
