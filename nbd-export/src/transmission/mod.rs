//! The transmission phase: requests in, replies out.
//!
//! ```text
//!             ┌─ what takes microseconds is answered here ──────────────┐
//! socket ─> reader ─> pending requests ─> workers ─> queue ─> writer ─> socket
//! ```
//!
//! Every connection has a reader and a writer, threads of its own that wait only for its client.
//! The workers are the server's; they never wait for a client, and take from the connections in
//! turn, so that one that is slow or greedy costs the others nothing. A request that the disk can
//! answer without reading or decoding is answered by the reader at once, several in one write.
//!
//! **Memory.** Bytes on their way in or out lie in buffers of [`PIECE_LEN`]. A connection may
//! always have one, and more of them only as long as its own bound and the one of all connections
//! allow (see `budget`); then it stands in line, and meanwhile its writes, which have theirs, go
//! before what needs one. Longer reads and writes go piece by piece. What a connection has pending
//! is bounded too; its reader then stops reading.
//!
//! **Order.** Replies come in any order. A reply in several chunks may have those of others
//! between them; a long one that must be a single chunk is sent by the reader, which keeps all
//! others out until it is done.

mod budget;
mod buffer;
mod connection;
mod execute;
mod inbox;
mod pool;
mod read;
mod reader;
mod reply;
mod rules;
mod status;

pub(crate) use connection::STACK_LEN;
pub use connection::{Connection, Output};
pub use pool::Pool;
pub(crate) use reply::disk_error;

/// Bytes of a disk that one buffer carries. Several frames, and what `nbdcopy` asks for at once.
pub const PIECE_LEN: usize = 256 * 1024;
