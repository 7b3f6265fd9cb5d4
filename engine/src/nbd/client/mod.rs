//! The client: one export, read through one or several connections with many requests in flight.
//!
//! What a server says is checked word by word (`reply`), and memory is taken in proportion to what
//! was asked, never to what a server announces.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod connect;
mod error;
mod export;
pub mod handshake;
mod link;
mod option;
mod read;
pub mod reply;

pub use error::{ClientError, OptionError, ServerFailure};
pub use export::{Client, ClientOptions};
