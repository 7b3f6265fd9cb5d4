//! Codecs of everything a repository stores. Pure: bytes in, values out; `docs/format.md` is the
//! specification.
//!
//! All bytes are hostile: decoding never panics, and bounds every length before it allocates.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

pub mod config;
mod cursor;
pub mod domain;
mod error;
mod file;
mod json;
pub mod keys;
pub mod manifest;
pub mod note;
pub mod pack;
pub mod parity;
pub mod plan;
pub mod recipe;
pub mod session;

pub use error::FormatError;
pub use file::{FILE_VERSION, FileKind, Salt, SealedHeader};
pub use json::Unknown;
pub(crate) use json::timestamp;
