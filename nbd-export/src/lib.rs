//! Serves the disks of snapshots over the NBD protocol.
//!
//! [`exports::Exports`] says what is served, [`listen`] makes the sockets, [`server::Server`] takes
//! connections in. Each goes through [`handshake`], which agrees on an export and on how to speak,
//! and then [`transmission`], which answers requests. What is served is behind the traits in
//! [`disk`]: [`snapshot`] is a snapshot's disk, [`overlay`] one that can be written. Numbers and
//! codecs of the protocol are the engine's.

pub mod context;
pub mod disk;
pub mod exports;
pub mod handshake;
pub mod listen;
pub mod log;
pub mod overlay;
pub mod server;
pub mod snapshot;
pub mod stop;
pub mod transmission;
