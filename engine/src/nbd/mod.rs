//! The NBD protocol: what both sides share, and the client.
//!
//! The protocol is the one specified in `doc/proto.md` of the NetworkBlockDevice project; names
//! here are the specification's. `docs/nbd.md` says what each side supports.

pub mod client;
pub mod tls;
pub mod transport;
pub mod uri;
pub mod wire;
